"""Launcher of rms_norm.cu: the functions of minillm/layers/rms_norm.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_CONSTANTS, COLUMN_SUM_INSTANCES, column_sum
from minillm.kernels.launch import NUMBERS, CudaFile, ResourceLimit, blocks_for, c_type, check_array, empty, row_threads
from minillm.kernels.layer_norm import MAX_PARTIALS, check_norm

MAX_WIDTH = 12160  # dweight of a row lies in the 48 KB of shared memory that every GPU grants a block

_instances = dict(COLUMN_SUM_INSTANCES)
for _number in NUMBERS.values():
    _instances[f"rms_norm_forward<{_number}>"] = ResourceLimit(registers=32, shared=128)
    _instances[f"rms_norm_backward<{_number}>"] = ResourceLimit(40, shared=128, dynamic_shared=4 * MAX_WIDTH)
CUDA = CudaFile(__file__, "rms_norm.cu", _instances, constants=COLUMN_SUM_CONSTANTS)


def rms_norm_forward(x, weight, eps=1e-5):
    """x (..., C), weight (C,)  ->  y (..., C), saved"""
    rows, width = check_norm("rms_norm_forward", x, weight, max_width=MAX_WIDTH)
    y, rstd = empty(x.shape, x, x.dtype), empty((rows,), x)
    arguments = (x, weight, y, rstd, np.int32(width), np.float32(eps))
    CUDA.launch(f"rms_norm_forward<{c_type(x)}>", (rows,), (row_threads(width),), arguments)
    return y, (x, rstd, weight)


def rms_norm_backward(dy, saved):
    """dy (..., C)  ->  dx (..., C), dweight (C,)"""
    x, rstd, weight = saved
    check_array("rms_norm_backward", "dy", dy, like=x, shape=x.shape, dtype=x.dtype, because=f"x is {x.shape}")
    rows, width = len(rstd), x.shape[-1]
    blocks = blocks_for(rows, 1, MAX_PARTIALS)
    dx, partials = empty(x.shape, x, x.dtype), empty((blocks, width), x)
    arguments = (dy, x, rstd, weight, dx, partials, np.int64(rows), np.int32(width))
    kernel = f"rms_norm_backward<{c_type(x)}>"
    CUDA.launch(kernel, (blocks,), (row_threads(width),), arguments, shared_bytes=4 * width)
    return dx, column_sum(CUDA, partials)
