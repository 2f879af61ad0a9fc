"""The table that `minillm gradcheck --mutate` prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from minillm.checks.gradcheck import GradientError
from minillm.checks.mutation.equivalent import reason_why_equal
from minillm.checks.mutation.mutants import NEVER_RUN, Mutant
from minillm.checks.mutation.run import Result, mutate
from minillm.cli.terminal import terminal_width

HEADINGS = ("name", "mutants", "caught", "same function", "survive")
QUIET, EVERY = 2.0, 0.2  # seconds


def mutate_and_print(names: list[str] | None, every: bool = False) -> int:
    """Try the mutants of these names, or of all, print what was found, and return the exit code: 1
    if one survives that is not known to be the same function.

    every: also those that are, with the reason.
    """
    results: list[Result] = []
    with _progress() as progress:
        try:
            results += mutate(names, progress=progress)
        except GradientError as error:
            print(f"FAILED {error}")
            print("its mutants say nothing: mend the gradient first (minillm gradcheck)")
            return 1
    Console(width=terminal_width()).print(_table(results))
    for result in results:
        for mutant in result.survivors_and_equal if every else result.survivors:
            print("\n".join(_lines(mutant)))
    print(_last_line(results))
    return 1 if any(result.survivors for result in results) else 0


def _table(results: list[Result]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for result in results:
        counts = len(result.outcomes), len(result.caught), len(result.equal), len(result.survivors)
        colour = "[red]" if result.survivors else ""
        table.add_row(*(colour + cell for cell in (result.name, *map(str, counts))))
    return table


def _lines(mutant: Mutant) -> Iterator[str]:
    reason = reason_why_equal(mutant)
    yield f"{'SAME' if reason else 'SURVIVES'} {_short(mutant.file)}:{mutant.line}: {mutant.rule}, in {mutant.function}"
    yield f"    {mutant.before}"
    if mutant.rule != NEVER_RUN:
        yield f" -> {mutant.after}"
    if reason:
        yield f"    ({reason})"


def _short(file: str) -> str:
    """A path relative to the current folder, if it lies below it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _last_line(results: list[Result]) -> str:
    tried, caught, equal, survivors = (
        sum(len(getattr(result, part)) for result in results) for part in ("outcomes", "caught", "equal", "survivors")
    )
    return f"{tried:,} mutants, {caught:,} caught, {equal} the same function, {survivors} survive"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A line on standard error that says how far it is, from QUIET seconds on; on a terminal
    alone.
    """
    stream, began, last = sys.stderr, time.monotonic(), [0.0]
    is_terminal = stream.isatty()

    def show(name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if is_terminal and now - began > QUIET and now - last[0] > EVERY:
            last[0] = now
            print(
                f"\r\x1b[K{name}: {done:,} of {total:,} mutants, {now - began:.0f} s", end="", file=stream, flush=True
            )

    try:
        yield show
    finally:
        if last[0]:
            print("\r\x1b[K", end="", file=stream, flush=True)
