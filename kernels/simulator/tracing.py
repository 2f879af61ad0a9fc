"""Who wrote an element of an array last.

with configured(mode="check", trace=Trace(y, 7)):
    kernel(grid, block, (x, y))
trace.writer                        Writer(kernel="scale", place="scale.cu:3", block=(0, 0, 0), thread=(7, 0, 0))
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.kernels.simulator.lines import source_lines
from minillm.kernels.simulator.memory import address_of


class Writer(NamedTuple):
    """kernel: its name. place: file and line, joined by a colon. block, thread: (x, y, z)."""

    kernel: str
    place: str
    block: tuple[int, int, int]
    thread: tuple[int, int, int]


class Trace:
    """The element of an array whose last write is looked for, in all launches that take the array.

    array: as it is given to the kernel. element: its number. writer: None if no thread wrote it.
    """

    def __init__(self, array: np.ndarray, element: int):
        self.array = array
        self.element = element
        self.writer: Writer | None = None

    def address(self, arguments, buffers) -> int:
        """Where the element is in a launch: buffers has the copy of each argument, or None."""
        for value, buffer in zip(arguments, buffers):
            if value is self.array:
                return address_of(value, buffer) + self.element * value.itemsize
        return 0

    def take_up(self, kernel: str, launch, library: Path) -> None:
        """Look at what a launch found."""
        if launch.traced_pc:
            place = source_lines(library, [launch.traced_pc - 1])[launch.traced_pc - 1]
            self.writer = Writer(kernel, place, tuple(launch.traced_block), tuple(launch.traced_thread))
