"""A line on the terminal while a lesson computes: what is being done, and for how many seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_shown: list[Progress] = []  # the display of the outermost `waiting`; the ones inside add lines to it


@contextmanager
def waiting(text: str, console: Console | None = None) -> Iterator[None]:
    """Show `text` and the elapsed time until the block ends, then remove the line.

    console: where, by default standard error. Nothing is shown if that is not a terminal.
    """
    console = console or Console(stderr=True)
    if _shown:
        task = _shown[0].add_task(text, total=None)
        try:
            yield
        finally:
            _shown[0].remove_task(task)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(text, total=None)
        _shown.append(progress)
        try:
            yield
        finally:
            _shown.clear()
