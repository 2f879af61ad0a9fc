"""Prints docs/planted-faults.md, the list of all faults that are planted in layers, optimizers and kernels.

    python tests/planted_faults.py > docs/planted-faults.md

A test file names its faults in tables, name -> (a text of the source, what is put in its place, ...):

    KERNEL_FAULTS       in a CUDA source; the last text is "check" or "numbers"
    FORMULA_FAULTS      noticed by comparison with the formula, written out in the test
    FAULTS, ...         any other name with FAULTS in it: noticed by finite differences, unless a third text says by what
"""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = re.compile(r"^((?:[A-Z]+_)?FAULTS(?:_\w+)?) = \{", re.MULTILINE)
WORDS = {"check": "check mode", "numbers": "the comparison with NumPy"}

PAGE = """\
# Planted faults

Tests that have never failed prove nothing. So faults are planted in the sources, one at a time and anew in every run of the
tests, and the tests have to notice each of them:

- **finite differences** in float64, where a gradient is wrong;
- **the formula**, written out in the test a number at a time, where the result itself is wrong;
- **check mode** of the simulator: races, accesses out of bounds, barriers that some threads miss, shared memory that was never
  written;
- **the comparison with NumPy** in float64, where a kernel's result is wrong;
- **a plain loop of training** on one rank, where several ranks have another loss, norm or weight.

The source text of each fault is in the test file of its operation, `tests/layers/test_OPERATION.py` or beside it. This page is
generated (`python tests/planted_faults.py > docs/planted-faults.md`), and a test compares it with those files.

## Gradients and formulas

{layers}

## Several ranks

{ranks}

## Kernels

{kernels}
"""


def page() -> str:
    """The text of docs/planted-faults.md."""
    found = sorted(faults(), key=lambda row: row[0])  # stable: in the order of the files
    ranks = [row[:3] for row in found if row[3] == "distributed"]
    layers = [row[:3] for row in found if row[2] not in WORDS.values() and row[3] != "distributed"]
    kernels = [row[:3] for row in found if row[2] in WORDS.values()]
    return PAGE.format(layers=table(layers), ranks=table(ranks), kernels=table(kernels))


def faults():
    """(operation, name, what notices it, folder of its tests) of every named fault."""
    for folder in ("layers", "models", "optim", "kernels", "distributed"):
        for path in sorted((TESTS / folder).glob("test_*.py")):
            tables = TABLE.findall(path.read_text(encoding="utf-8"))
            if not tables:
                continue
            spec = spec_from_file_location(f"planted_faults_of_{folder}_{path.stem}", path)
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            for kind in tables:
                by = "the formula" if kind == "FORMULA_FAULTS" else "finite differences"
                for name, fault in vars(module)[kind].items():
                    if not isinstance(fault[0], str):  # (module, text, what is put in its place, settings)
                        fault, by = fault[1:3], "the bits of one rank"
                    _, _, *last = fault
                    yield path.stem.removeprefix("test_"), name, WORDS.get(last[-1], last[-1]) if last else by, folder


def table(rows) -> str:
    """Rows as a table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["| operation | fault | noticed by |", "|---|---|---|", *lines])


if __name__ == "__main__":
    print(page(), end="")
