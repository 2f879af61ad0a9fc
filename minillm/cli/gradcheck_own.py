"""What `minillm gradcheck file.py` prints: a line for each layer or pair that was found."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from minillm.checks import complex_step
from minillm.checks.own_code.loading import is_own_code, load
from minillm.checks.own_code.mutating import Mutated, mutate_module
from minillm.checks.own_code.running import Result, check_module
from minillm.checks.verdicts import PASSED, TOLERANCE
from minillm.cli.terminal import terminal_width, waiting
from minillm.errors import UserError

__all__ = ["check_own_code", "is_own_code"]

HEADINGS = ("checked", "line", "inputs", "largest error", "in", "at")


def check_own_code(
    names: list[str], given: list[str], method: str = "differences", every: bool = False, mutate: bool = False
) -> int:
    """Check the files among `names`, or what follows a file's name in it, print what came out, and
    return the exit code: 1 if a gradient is wrong, 2 if what was named or nothing could be checked.

    given: the texts of --input. every: a line for each tensor. mutate: try the mutants of each
    backward that passes, too, and print those that the check does not notice.
    """
    results, mutated, asked = [], [], False
    for place, wanted in _by_file(names):
        module, only = load(place)
        wanted = [*([only] if only else []), *wanted]
        asked |= bool(wanted)
        with waiting("checking"):
            of_file = list(check_module(module, wanted or None, _inputs(given), method))
        results += of_file
        if mutate:
            passed = {result.name for result in of_file if not (result.failed or result.reason)}
            with waiting("mutants"):
                mutated += mutate_module(module, passed, _inputs(given))
    _print_table([result for result in results if result.report is not None], every)
    for result in results:
        _print_notes(result)
    checked = [result for result in results if not result.reason]
    if guessed := [f"{result.name} ({', '.join(result.guessed)})" for result in checked if result.guessed]:
        print(f"guessed shapes, since nothing tells them: {', '.join(guessed)}")
    failed, left = sum(result.failed for result in checked), len(results) - len(checked)
    tolerance = complex_step.TOLERANCE if method == "complex" else TOLERANCE
    print(f"{len(checked)} checked, {failed} failed, {left} not checked, tolerance {tolerance:g}")
    for each in mutated:
        _print_mutants(each)
    if failed:
        return 1
    return 2 if not checked or (asked and left) else 0


def _by_file(names: list[str]) -> list[tuple[str, list[str]]]:
    """(file, the names in it) of the words of a command: a name belongs to the file before it."""
    found: list[tuple[str, list[str]]] = []
    for name in names:
        if is_own_code(name):
            found.append((name, []))
        else:
            found[-1][1].append(name)
    return found


def _inputs(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UserError(
                f"--input {text}: write x=3,5 (a shape), y=int:10:4 (integers below 10) or eps==1e-5 (a value)"
            )
        found[name.strip()] = value.strip()
    return found


def _print_table(results: list[Result], every: bool) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in HEADINGS:
        side = "right" if heading in ("line", "largest error") else "left"
        table.add_column(heading, justify=side, overflow="fold", no_wrap=heading in ("largest error", "line"))
    for result in results:
        rows = result.report.rows if every else (result.report.worst,)
        for row in rows:
            colour = "" if row.verdict == PASSED else "[red]"
            shapes = result.shapes.replace("[", "\\[")
            cells = (
                result.name,
                str(result.line),
                shapes,
                f"{row.error:.1e}",
                row.tensor.replace("[", "\\["),
                str(row.where),
            )
            table.add_row(*(colour + cell for cell in cells))
    if results:
        Console(width=terminal_width()).print(table)


def _print_notes(result: Result) -> None:
    if result.reason:
        print(f"NOT CHECKED {result.name} (line {result.line}): {result.reason}")
    if result.error is not None:
        print(f"FAILED {result.error}")
    notes = [*result.notes, *(result.report.notes if result.report else ())]
    for note in dict.fromkeys(notes):
        print(f"note: {result.name}: {note}")


def _print_mutants(mutated: Mutated) -> None:
    if mutated.reason:
        print(f"NO MUTANTS {mutated.name}: {mutated.reason}")
        return
    tried, survivors = len(mutated.outcomes), mutated.survivors
    print(f"{mutated.name}: {tried - len(survivors)} of {tried} mutants of its backward are noticed")
    for mutant in survivors:
        print(f"  survives: {mutant}")
