"""The table that `minillm gradcheck` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from minillm.checks import complex_step
from minillm.checks.cases import problems_of, report_or_error
from minillm.checks.gradcheck import GradientError, Report
from minillm.checks.side_by_side import side_by_side
from minillm.checks.verdicts import PASSED, TOLERANCE, UNTOLD
from minillm.cli.terminal import terminal_width, waiting

WAITING = {"differences": "finite differences", "complex": "the complex step"}
COLOURS = {PASSED: "", UNTOLD: "[yellow]"}
LAYER_HEADINGS = ("layer", "tensors", "largest error", "in", "at")
TENSOR_HEADINGS = ("layer", "tensor", "shape", "largest error", "at")


def check_and_print(names: list[str] | None, every: bool = False, method: str = "differences") -> int:
    """Check, print the table, and return the exit code: 1 if an error is above the tolerance.

    every: a line for each tensor in place of one for each layer. method: of `gradcheck`.
    """
    reports, failures = [], []
    # Whole models are named last and take longest: begun first, they leave no process alone.
    problems = [(case, problem, method) for _, case, problem in reversed(problems_of(names))]
    # The processes first: the sign of life is a thread, which no copy of a process has.
    with side_by_side(problems, lambda problem: report_or_error(*problem)) as results, waiting(WAITING[method]):
        for result in results:
            if isinstance(result, GradientError):
                failures.append(str(result))
                result = result.report
            if result is not None:  # something could be measured
                reports.append(result)
    reports.reverse()
    failures.reverse()
    reports.sort(key=lambda report: _worst(report).error)
    Console(width=terminal_width()).print(_table_of_tensors(reports) if every else _table_of_layers(reports))
    for message in failures:
        print(f"FAILED {message}")
    if method == "complex":
        for report in reports:
            for note in (note for note in report.notes if "by finite differences" in note):
                print(f"{report.name}: {note}")
    print(_last_line(reports, failures, complex_step.TOLERANCE if method == "complex" else TOLERANCE))
    return 1 if failures else 0


def _worst(report: Report):
    """The row of a report with the largest error; one that did not pass before all that did."""
    return max(report.rows, key=lambda row: (row.verdict != PASSED, row.error))


def _table_of_layers(reports: list[Report]) -> Table:
    table = _empty_table(LAYER_HEADINGS)
    for report in reports:
        worst = _worst(report)
        cells = (report.name, str(len(report.rows)), f"{worst.error:.1e}", worst.tensor, str(worst.where))
        table.add_row(*(COLOURS.get(worst.verdict, "[red]") + cell for cell in cells))
    return table


def _table_of_tensors(reports: list[Report]) -> Table:
    table = _empty_table(TENSOR_HEADINGS)
    for report in reports:
        for row in sorted(report.rows, key=lambda row: row.error):
            cells = (report.name, row.tensor, str(row.shape), f"{row.error:.1e}", str(row.where))
            table.add_row(*(COLOURS.get(row.verdict, "[red]") + cell for cell in cells))
    return table


def _empty_table(headings: tuple[str, ...]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        side = "right" if heading in ("tensors", "largest error") else "left"
        table.add_column(heading, justify=side, overflow="fold", no_wrap=heading == "largest error")
    return table


def _last_line(reports: list[Report], failures: list[str], tolerance: float) -> str:
    rows = [(report.name, row) for report in reports for row in report.rows]
    line = f"{len(rows)} tensors, {len(failures)} checks failed, tolerance {tolerance:g}"
    if not rows:
        return line
    name, worst = max(rows, key=lambda pair: (pair[1].verdict != PASSED, pair[1].error))
    return f"{line}\nlargest relative error {worst.error:.1e} in {name}, {worst.tensor}"
