"""Launcher of rms_norm.cu: the functions of minillm/layers/rms_norm.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_INSTANCES, column_sums
from minillm.kernels.launch import CudaFile, ResourceLimit, check_array, empty
from minillm.kernels.layer_norm import check_norm
from minillm.kernels.vectors import NULL, ROW_CONSTANTS, blocks_of_rows, instance, instances, threads_of_row

CUDA = CudaFile(
    __file__,
    "rms_norm.cu",
    {
        **COLUMN_SUM_INSTANCES,
        **instances("rms_norm_forward", ResourceLimit(registers=80, shared=128), by_one=128),
        **instances("rms_norm_backward", ResourceLimit(registers=80, shared=128), by_one=128),
    },
    constants=ROW_CONSTANTS,
)


def rms_norm_forward(x, weight, eps=1e-5):
    """x (..., C), weight (C,)  ->  y (..., C), saved"""
    rows, width = check_norm("rms_norm_forward", x, weight)
    y, rstd = empty(x.shape, x, x.dtype), empty((rows,), x)
    kernel = instance("rms_norm_forward", width, (x, weight))
    arguments = (x, weight, y, rstd, np.int64(rows), np.int32(width), np.float32(eps))
    CUDA.launch(kernel, (blocks_of_rows(rows, width, 2),), (threads_of_row(width, kernel),), arguments)
    return y, (x, rstd, weight)


def rms_norm_backward(dy, saved, dsum=None):
    """dy (..., C)  ->  dx (..., C), dweight (C,)

    dsum (..., C): another gradient of x, which is added to dx.
    """
    x, rstd, weight = saved
    for name, array in (("dy", dy), ("dsum", dsum)):
        if array is not None:
            because = f"x is {x.shape}"
            check_array("rms_norm_backward", name, array, like=x, shape=x.shape, dtype=x.dtype, because=because)
    rows, width = len(rstd), x.shape[-1]
    blocks = blocks_of_rows(rows, width)
    dx, partials = empty(x.shape, x, x.dtype), empty((1, blocks, width), x)
    outputs = (dx, partials, np.int64(rows), np.int32(width))
    arguments = (dy, x, rstd, weight, NULL if dsum is None else dsum, *outputs)
    kernel = instance("rms_norm_backward", width, (x, dy, weight, dsum))
    CUDA.launch(kernel, (blocks,), (threads_of_row(width, kernel),), arguments)
    return dx, *column_sums(CUDA, partials)
