"""Launcher of gelu.cu: the functions of minillm/layers/gelu.py, for "cuda" and "cudasim"."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_CONSTANTS, COLUMN_SUM_INSTANCES, column_sum
from minillm.kernels.launch import FLOATS, NUMBERS, CudaFile, ResourceLimit, blocks_for, c_type, check_array, empty

THREADS = 256
NO_BIAS = np.uint64(0)  # a null pointer, which is not followed
ROW_GROUPS = 128  # threads that share a column
FORMS = {"tanh": "true", "none": "false"}  # approximate -> the template argument tanh_form

_instances = dict(COLUMN_SUM_INSTANCES)
for _arguments in product(NUMBERS.values(), FORMS.values(), ("true", "false")):
    _instances[f"gelu_forward<{', '.join(_arguments)}>"] = ResourceLimit(registers=32)
    _instances[f"gelu_backward<{', '.join(_arguments)}>"] = ResourceLimit(registers=48)
CUDA = CudaFile(__file__, "gelu.cu", _instances, constants=COLUMN_SUM_CONSTANTS)


def gelu_forward(x, bias=None, approximate="tanh"):
    """y = gelu(x + bias).  x (..., F), bias (F,) or None  ->  y (..., F), saved"""
    check_array("gelu_forward", "x", x, dtype=FLOATS)
    if approximate not in FORMS:
        raise ValueError(f"gelu_forward: approximate is {approximate!r}: use one of {', '.join(map(repr, FORMS))}")
    if bias is not None:
        width = x.shape[-1]
        check_array("gelu_forward", "bias", bias, like=x, shape=(width,), because=f"x has {width} channels")
    y = empty(x.shape, x, x.dtype)
    rows, width, grid, instance = _work(x, bias, approximate)
    arguments = (x, NO_BIAS if bias is None else bias, y, np.int64(rows), np.int32(width))
    CUDA.launch(f"gelu_forward{instance}", grid, (THREADS,), arguments)
    return y, (x, bias, approximate)


def gelu_backward(dy, saved):
    """dy (..., F)  ->  dx (..., F), dbias (F,) or None"""
    x, bias, approximate = saved
    check_array("gelu_backward", "dy", dy, like=x, shape=x.shape, dtype=x.dtype, because=f"x is {x.shape}")
    rows, width, grid, instance = _work(x, bias, approximate)
    dx = empty(x.shape, x, x.dtype)
    partials = empty((0,), x) if bias is None else empty((grid[0], width), x)
    arguments = (dy, x, NO_BIAS if bias is None else bias, dx, partials, np.int64(rows), np.int32(width))
    CUDA.launch(f"gelu_backward{instance}", grid, (THREADS,), arguments)
    return dx, None if bias is None else column_sum(CUDA, partials)


def _work(x, bias, approximate) -> tuple[int, int, tuple[int, int], str]:
    """Rows, width, grid, template arguments."""
    width = x.shape[-1] if x.ndim else 1
    rows = math.prod(x.shape[:-1])
    grid = (blocks_for(rows, 1, ROW_GROUPS), blocks_for(width, THREADS))
    return rows, width, grid, f"<{c_type(x)}, {FORMS[approximate]}, {'false' if bias is None else 'true'}>"
