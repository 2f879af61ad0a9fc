"""python -m benchmarks.machine: the machine that results come from, as their files name it."""

from benchmarks.common import origin, write_results


def main() -> None:
    for name, found in origin().items():
        print(f"{name:14} {found}")
    write_results("machine", {})


if __name__ == "__main__":
    main()
