"""python -m benchmarks.gradcheck: how long `minillm gradcheck` takes, and the largest relative error that it finds."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time

from benchmarks.common import write_results
from minillm.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layers", nargs="*", help="by default all")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/gradcheck.json")
    arguments = parser.parse_args()
    started = time.perf_counter()
    command = [sys.executable, "-m", "minillm", "gradcheck", *arguments.layers]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    found = re.search(r"largest relative error (\S+)", done.stdout)
    if done.returncode or found is None:
        raise UserError(f"minillm gradcheck ended with exit code {done.returncode}: {done.stdout.strip()[-300:]}")
    print(f"{seconds:.1f} s, largest relative error {found[1]}")
    if arguments.write:
        write_results("gradcheck", {"seconds": seconds, "largest_error": float(found[1])})


if __name__ == "__main__":
    main()
