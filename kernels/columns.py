"""How the kernels that include columns.cuh are launched."""

from __future__ import annotations

from minillm.kernels.column_sum import COLUMN_SUM_CONSTANTS
from minillm.kernels.launch import blocks_for

WIDE, DEEP = 32, 8  # threads of a block: side by side, and one below the other
THREADS = (WIDE, DEEP)
MAX_BLOCKS = 1024  # of 256 threads; beyond it a thread walks down more rows
COLUMNS_CONSTANTS = {**COLUMN_SUM_CONSTANTS, "WIDE": WIDE, "DEEP": DEEP}


def column_grid(rows: int, width: int, kernel: str) -> tuple[int, int]:
    """The grid for a matrix; kernel: the instance, whose second argument is N."""
    return grid_of(rows, width, int(kernel.split(",")[1].strip(" >")))


def grid_of(rows: int, width: int, neighbours: int) -> tuple[int, int]:
    """The same for N neighbours in a vector."""
    across = blocks_for(width, WIDE * neighbours)
    return blocks_for(rows, DEEP, max(1, MAX_BLOCKS // max(across, 1))), across
