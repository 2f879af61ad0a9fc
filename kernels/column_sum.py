"""The kernel of column_sum.cuh, the second stage of sums over rows, for the launchers whose files
include it.
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for, empty

COLUMNS, ADDENDS = 32, 32  # columns of a block; threads that share a column
COLUMN_SUM_CONSTANTS = {"COLUMNS": COLUMNS, "ADDENDS": ADDENDS}
# 1,024 threads of a block share 65,536 registers: 64 each. sm_75 takes 50, later ones at most 32.
COLUMN_SUM_INSTANCES = {"column_sum": ResourceLimit(registers=64, shared=4 * COLUMNS * ADDENDS)}


def column_sums(cuda: CudaFile, partials) -> list:
    """partials (S, count, C), S = 1 to 3 tables  ->  the S sums (C,), in one launch.

    The file of `cuda` includes column_sum.cuh.
    """
    tables, count, width = partials.shape
    totals = [empty((width,), partials) for _ in range(tables)]
    outs = (*totals, *totals[-1:] * (3 - tables))  # those of absent tables are not written to
    arguments = (partials, *outs, np.int32(count), np.int32(width))
    cuda.launch("column_sum", (blocks_for(width, COLUMNS), tables), (COLUMNS, ADDENDS), arguments)
    return totals
