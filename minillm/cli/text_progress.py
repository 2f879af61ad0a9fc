"""What is shown while a large text is read: how much of it is done, how fast, and how long it still
takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minillm.backend.forked import why_no_workers

EVERY = 0.1  # seconds between two pictures of the bar


@contextmanager
def text_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function to call with what is done, how much of it, and how much there is: bytes of
    a text, or merges that are learned.

    On a terminal there is a bar, which is erased at the end; elsewhere nothing. It has no thread of
    its own, which a fork would lose.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
    with bar:
        yield _Shown(bar)


def say_if_alone(workers: int) -> None:
    """One line where several processes are asked for, and none can be forked."""
    if workers > 1 and (why := why_no_workers()):
        print(f"--workers {workers}: one process reads the text: {why}", file=sys.stderr)


class _Shown:
    """The bar, moved by being called."""

    def __init__(self, bar: Progress):
        self._bar, self._what, self._task, self._last = bar, None, None, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if (what, total) != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._what, self._begun, self._last = (what, total), now, 0.0
            self._task = self._bar.add_task(what, total=total, amount="")
        amount = amount_of(done, total, now - self._begun)
        self._bar.update(self._task, completed=done, amount=amount)
        if now - self._last >= EVERY or done >= total:
            self._bar.refresh()
            self._last = now


def amount_of(done: int, total: int, seconds: float) -> str:
    """How much is done, and how fast; a text of a million bytes and more in megabytes.

    >>> amount_of(25_000_000, 100_000_000, 2.0), amount_of(640, 32_000, 0.5)
    ('25 of 100 MB, 12.5 MB/s', '640 of 32,000, 1,280/s')
    """
    rate = done / seconds if seconds > 0 else 0.0
    if total >= 1_000_000:
        return f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s"
    return f"{done:,} of {total:,}, {rate:,.0f}/s"
