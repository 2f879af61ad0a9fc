"""Launcher of gelu.cu: the functions of minillm/layers/gelu.py, for "cuda" and "cudasim"."""

from __future__ import annotations

import math

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_INSTANCES, column_sums
from minillm.kernels.columns import COLUMNS_CONSTANTS, DEEP, THREADS, WIDE, column_grid
from minillm.kernels.launch import FLOATS, CudaFile, ResourceLimit, check_array, empty
from minillm.kernels.vectors import NULL, instance, instances

FORMS = {"tanh": "true", "none": "false"}  # approximate -> the template argument tanh_form

_instances = dict(COLUMN_SUM_INSTANCES)
for _form in FORMS.values():
    _instances |= instances("gelu_forward", ResourceLimit(registers=64), _form)
    _instances |= instances("gelu_backward", ResourceLimit(registers=64, shared=4 * WIDE * DEEP * 8), _form)
CUDA = CudaFile(__file__, "gelu.cu", _instances, constants=COLUMNS_CONSTANTS)


def gelu_forward(x, bias=None, approximate="tanh"):
    """y = gelu(x + bias).  x (..., F), bias (F,) or None  ->  y (..., F), saved"""
    check_array("gelu_forward", "x", x, dtype=FLOATS)
    if approximate not in FORMS:
        raise ValueError(f"gelu_forward: approximate is {approximate!r}: use one of {', '.join(map(repr, FORMS))}")
    if bias is not None:
        width = x.shape[-1]
        check_array("gelu_forward", "bias", bias, like=x, shape=(width,), because=f"x has {width} channels")
    y, (rows, width) = empty(x.shape, x, x.dtype), _matrix(x)
    kernel = instance("gelu_forward", width, (x, bias), FORMS[approximate])
    arguments = (x, NULL if bias is None else bias, y, np.int64(rows), np.int32(width))
    CUDA.launch(kernel, column_grid(rows, width, kernel), THREADS, arguments)
    return y, (x, bias, approximate)


def gelu_backward(dy, saved):
    """dy (..., F)  ->  dx (..., F), dbias (F,) or None"""
    x, bias, approximate = saved
    check_array("gelu_backward", "dy", dy, like=x, shape=x.shape, dtype=x.dtype, because=f"x is {x.shape}")
    dx, (rows, width) = empty(x.shape, x, x.dtype), _matrix(x)
    kernel = instance("gelu_backward", width, (x, dy, bias), FORMS[approximate])
    grid = column_grid(rows, width, kernel)
    partials = None if bias is None else empty((1, grid[0], width), x)
    pointers = (dy, x, NULL, dx, NULL) if bias is None else (dy, x, bias, dx, partials)
    CUDA.launch(kernel, grid, THREADS, (*pointers, np.int64(rows), np.int32(width)))
    return dx, None if bias is None else column_sums(CUDA, partials)[0]


def _matrix(x) -> tuple[int, int]:
    """Rows and width."""
    return math.prod(x.shape[:-1]), x.shape[-1] if x.ndim else 1
