"""Launcher of bias.cu: the functions of minillm/layers/bias.py, for "cuda" and "cudasim"."""

from __future__ import annotations

import math

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_INSTANCES, column_sums
from minillm.kernels.columns import COLUMNS_CONSTANTS, DEEP, THREADS, WIDE, column_grid
from minillm.kernels.launch import FLOATS, CudaFile, ResourceLimit, check_array, empty
from minillm.kernels.vectors import instance, instances

CUDA = CudaFile(
    __file__,
    "bias.cu",
    {
        **COLUMN_SUM_INSTANCES,
        **instances("bias_forward", ResourceLimit(registers=64)),
        **instances("bias_backward", ResourceLimit(registers=64, shared=4 * WIDE * DEEP * 8)),
    },
    constants=COLUMNS_CONSTANTS,
)


def bias_forward(z, bias):
    """z (..., C), bias (C,)  ->  y (..., C), written over z, saved"""
    check_array("bias_forward", "z", z, dtype=FLOATS)
    width = z.shape[-1]
    check_array("bias_forward", "bias", bias, like=z, shape=(width,), because=f"z has {width} channels")
    rows, kernel = math.prod(z.shape[:-1]), instance("bias_forward", width, (z, bias))
    CUDA.launch(kernel, column_grid(rows, width, kernel), THREADS, (z, bias, np.int64(rows), np.int32(width)))
    return z, None


def bias_backward(dy, saved=None):
    """dy (..., C)  ->  dbias (C,); dz is dy itself."""
    check_array("bias_backward", "dy", dy, dtype=FLOATS)
    rows, width = math.prod(dy.shape[:-1]), dy.shape[-1]
    kernel = instance("bias_backward", width, (dy,))
    grid = column_grid(rows, width, kernel)
    partials = empty((1, grid[0], width), dy)
    CUDA.launch(kernel, grid, THREADS, (dy, partials, np.int64(rows), np.int32(width)))
    (dbias,) = column_sums(CUDA, partials)
    return dbias
