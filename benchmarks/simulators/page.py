"""docs/simulators.md from what was measured."""

from __future__ import annotations

from benchmarks.common import RESULTS as FOLDER
from benchmarks.simulators.faults import FAULTS

RESULTS = FOLDER / "simulators.json"
WAYS = {"ours": "check mode", "orders": "orders", "sanitizers": "sanitizers", "valgrind": "valgrind", "numba": "numba"}

PAGE = """\
# Simulators compared

Forty kernels, each with one planted fault and once without it (`benchmarks/simulators/faults.cu`), in the check mode of
this project's [simulator](simulator.md) and in what else runs CUDA kernels without a GPU. The page is generated: `python -m
benchmarks.simulators --write` runs all of them, and a test runs our column anew.

- **check mode**: `minillm simulate FILE.cu --check`, threads in ascending order; where that shows nothing, once more in
  shuffled order.
- **orders**, **sanitizers**, **valgrind**: the kernel as a program of the host, the way of
  [cuda4cpu](https://github.com/javier-cabezas/cuda4cpu). The threads of a block run one after another up to their next
  barrier, in five orders (forward, reverse, three random ones), and the results are compared; barriers at different lines
  are reported; the same program is compiled with g++'s AddressSanitizer and UBSan, and runs in valgrind. cuda4cpu itself
  was not at hand: its documented ways are built anew in `benchmarks/simulators/threads.h`, so that a cell says what the way
  can see, and not what cuda4cpu prints.
- **numba**: numba's simulator (`NUMBA_ENABLE_CUDASIM=1`), the same kernels written in Python. It looks at nothing but
  Python's own exceptions and warnings.

A cell has the line, if the fault was reported with its line; `yes`, if it was reported without; `results differ`, if the
order of threads changes the numbers, which a comparison of two runs shows; `-`, if nothing was shown; nothing, if the
kernel cannot be written there. A wrong number alone counts as nothing: every way shows it where the right one is known.
NVIDIA's compute-sanitizer needs a GPU and was not run.

{table}

Reported: {counts}.
Without the fault: {sound}.
{when}
The faults were chosen here; another list would give other counts.

What was learned from the others for check mode: a read of a local variable that has no value, and a pointer to one whose
scope has ended (g++'s warnings, for the kernel that runs); an integer that overflows, and a shift that is too far (UBSan);
an array in which nothing was written yet (`--arg "float32[1000]=fresh"`, as valgrind sees it).

What check mode does not see: a pointer that has wandered from one array into another, from one row of a shared array into
the next, or beyond a local array within the thread's own stack (AddressSanitizer sees the last one); numbers that no thread
has computed, since it does not know what was wanted (`--expect` does).
"""


def page(found: dict) -> str:
    """The page, from the content of the file of results."""
    faults = found["faults"]
    rows = [["fault", *WAYS.values()]]
    rows += [[fault.words, *(cell(*faults[fault.name].get(way, ["cannot", ""])) for way in WAYS)] for fault in FAULTS]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    table = "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
    reported = {
        name: sum(is_report(faults[f.name].get(way, ["", ""])[0]) for f in FAULTS) for way, name in WAYS.items()
    }
    mistaken = {
        name: sum(is_report(faults[f.name].get(way, ["", ""])[1]) for f in FAULTS) for way, name in WAYS.items()
    }
    wrongly = ", ".join(f"{name} reports {count}" for name, count in mistaken.items() if count)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return PAGE.format(
        table=table,
        counts=", ".join(f"{name} {count} of {len(FAULTS)}" for name, count in reported.items()),
        sound=wrongly or "none reports anything",
        when=f"Run on {found['date']} with {versions}.",
    )


def is_report(text: str) -> bool:
    """Whether a way showed something."""
    return text not in ("", "cannot")


def cell(faulty: str, sound: str) -> str:
    """What the table has for the texts that were shown with and without the fault."""
    if faulty == "cannot":
        return ""
    if not faulty:
        return "-"
    if faulty.startswith("line "):
        return faulty.partition(":")[0]
    return faulty if faulty in ("results differ", "hangs") else "yes"
