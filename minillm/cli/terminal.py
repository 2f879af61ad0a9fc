"""The terminal: its width, and a sign of life while something slow runs."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill

INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it

UNLIMITED = 160  # columns where there is no terminal
SILENCE, TICK = 2.0, 0.5  # seconds before the first line, and between two of them


def terminal_width() -> int:
    """Columns to print in: those of the terminal or of COLUMNS, and UNLIMITED for a file
    or a pipe.
    """
    return shutil.get_terminal_size((UNLIMITED, 24)).columns


def fold(text: str, width: int) -> str:
    """A text with its long lines broken between words; words that are longer stay whole."""
    return "\n".join(
        fill(line, width, break_long_words=False, break_on_hyphens=False) if len(line) > width else line
        for line in text.split("\n")
    )


@contextmanager
def waiting(text: str, plain: bool = True) -> Iterator[None]:
    """While something slow runs, from SILENCE seconds on: `text` and the seconds so far on standard
    error.

    On a terminal it is a line that is rewritten, and erased at the end; elsewhere one line, with
    plain=False none.
    """
    done = threading.Event()
    thread = threading.Thread(target=_show_seconds, args=(text, plain, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show_seconds(text: str, plain: bool, done: threading.Event) -> None:
    started, stream = time.monotonic(), sys.stderr
    if done.wait(SILENCE):
        return
    if not stream.isatty():
        if plain:
            print(f"{text} ...", file=stream, flush=True)
        return
    while True:
        print(f"\r{text} ... {time.monotonic() - started:.0f} s", end="", file=stream, flush=True)
        if done.wait(TICK):
            break
    print("\r\x1b[K", end="", file=stream, flush=True)
