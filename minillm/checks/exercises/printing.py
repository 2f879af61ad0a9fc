"""What a kernel prints, kept in place of being shown: with many threads it is too much."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MOST_LINES = 20


class Printed:
    """lines: the first ones, once the block is left."""

    def __init__(self):
        self.lines: list[str] = []


@contextmanager
def captured() -> Iterator[Printed]:
    """Inside, printf writes to a file.

    Kernels print as C does, past Python's own streams.
    """
    printed, library = Printed(), ctypes.CDLL(None)
    sys.stdout.flush()
    library.fflush(None)
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield printed
        finally:
            library.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            lines = file.read(1_000_000).decode("utf-8", "replace").splitlines()
            more = len(lines) - MOST_LINES
            printed.lines = lines[:MOST_LINES] + ([f"... ({more:,} more lines)"] if more > 0 else [])
