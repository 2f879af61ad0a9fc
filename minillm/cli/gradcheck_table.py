"""The table that `minillm gradcheck` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from minillm.checks.cases import run
from minillm.checks.gradcheck import GradientError
from minillm.checks.verdicts import PASSED, TOLERANCE, UNTOLD


def check_and_print(names: list[str] | None) -> int:
    """Check, print a table of all tensors, and return the exit code: 1 if an error is above the tolerance."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "tensor", "shape", "largest error", "where"):
        table.add_column(heading, justify="right" if heading == "largest error" else "left", overflow="fold")
    failures = []
    checked = 0
    with Console(stderr=True).status("finite differences ..."):
        for _, result in run(names):
            if isinstance(result, GradientError):
                failures.append(str(result))
                result = result.report
            if result is None:  # nothing could be measured
                continue
            for row in result.rows:
                checked += 1
                colour = {PASSED: "", UNTOLD: "[yellow]"}.get(row.verdict, "[red]")
                cells = (result.name, row.tensor, str(row.shape), f"{row.error:.1e}", str(row.where))
                table.add_row(*(colour + cell for cell in cells))
    Console(width=None if Console().is_terminal else 160).print(table)
    for message in failures:
        print(f"FAILED {message}")
    print(f"{checked} tensors, {len(failures)} checks failed, tolerance {TOLERANCE:g}")
    return 1 if failures else 0
