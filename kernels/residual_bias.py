"""Launcher of residual_bias.cu: the functions of minillm/layers/residual_bias.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import math

import numpy as np

from minillm.kernels.bias import bias_backward
from minillm.kernels.columns import COLUMNS_CONSTANTS, THREADS, column_grid
from minillm.kernels.launch import FLOATS, CudaFile, ResourceLimit, check_array, empty
from minillm.kernels.vectors import NULL, instance, instances

CUDA = CudaFile(
    __file__,
    "residual_bias.cu",
    instances("residual_bias_forward", ResourceLimit(registers=64)),
    constants=COLUMNS_CONSTANTS,
)


def residual_bias_forward(x, branch, bias=None):
    """x and branch (..., C), bias (C,) or None  ->  y (..., C), saved"""
    check_array("residual_bias_forward", "x", x, dtype=FLOATS)
    because = f"x is {x.shape}"
    check_array("residual_bias_forward", "branch", branch, like=x, shape=x.shape, dtype=x.dtype, because=because)
    width = x.shape[-1]
    if bias is not None:
        check_array("residual_bias_forward", "bias", bias, like=x, shape=(width,), because=f"x has {width} channels")
    y, rows = empty(x.shape, x, x.dtype), math.prod(x.shape[:-1])
    kernel = instance("residual_bias_forward", width, (x, branch, bias))
    arguments = (x, branch, NULL if bias is None else bias, y, np.int64(rows), np.int32(width))
    CUDA.launch(kernel, column_grid(rows, width, kernel), THREADS, arguments)
    return y, bias is not None


def residual_bias_backward(dy, saved):
    """dy (..., C)  ->  dx and dbranch (..., C), both dy itself, dbias (C,) or None"""
    return dy, dy, bias_backward(dy) if saved else None
