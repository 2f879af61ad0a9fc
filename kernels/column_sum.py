"""The kernel of column_sum.cuh, the second stage of a sum over rows, for the launchers whose files
include it.
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.launch import CudaFile, ResourceLimit, blocks_for, empty

COLUMNS, ADDENDS = 32, 8  # columns of a block; threads that share a column
COLUMN_SUM_CONSTANTS = {"COLUMNS": COLUMNS, "ADDENDS": ADDENDS}
COLUMN_SUM_INSTANCES = {"column_sum": ResourceLimit(registers=32, shared=4 * COLUMNS * ADDENDS)}


def column_sum(cuda: CudaFile, partials):
    """partials (count, C)  ->  their sum (C,). The file of `cuda` includes column_sum.cuh."""
    count, width = partials.shape
    total = empty((width,), partials)
    arguments = (partials, total, np.int32(count), np.int32(width))
    cuda.launch("column_sum", (blocks_for(width, COLUMNS),), (COLUMNS, ADDENDS), arguments)
    return total
