"""Launcher of layer_norm.cu: the functions of minillm/layers/layer_norm.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_INSTANCES, column_sums
from minillm.kernels.launch import FLOATS, CudaFile, ResourceLimit, check_array, empty
from minillm.kernels.vectors import MAX_WIDTH, NULL, ROW_CONSTANTS, blocks_of_rows, instance, instances, threads_of_row

CUDA = CudaFile(
    __file__,
    "layer_norm.cu",
    {
        **COLUMN_SUM_INSTANCES,
        **instances("layer_norm_forward", ResourceLimit(registers=80, shared=128), by_one=128),
        **instances("layer_norm_backward", ResourceLimit(registers=80, shared=128), by_one=128),
    },
    constants=ROW_CONSTANTS,
)


class LayerNormSaved(NamedTuple):
    """What backward needs of forward."""

    x: Any  # (..., C)
    mean: Any  # (N,)
    rstd: Any  # (N,)
    weight: Any  # (C,)
    has_bias: bool


def layer_norm_forward(x, weight, bias=None, eps=1e-5):
    """x (..., C), weight (C,), bias (C,) or None  ->  y (..., C), saved"""
    rows, width = check_norm("layer_norm_forward", x, weight, bias)
    y, mean, rstd = empty(x.shape, x, x.dtype), empty((rows,), x), empty((rows,), x)
    kernel = instance("layer_norm_forward", width, (x, weight, bias))
    arguments = (
        x,
        weight,
        NULL if bias is None else bias,
        y,
        mean,
        rstd,
        np.int64(rows),
        np.int32(width),
        np.float32(eps),
    )
    CUDA.launch(kernel, (blocks_of_rows(rows, width, 2),), (threads_of_row(width, kernel),), arguments)
    return y, LayerNormSaved(x, mean, rstd, weight, bias is not None)


def layer_norm_backward(dy, saved, dsum=None):
    """dy (..., C)  ->  dx (..., C), dweight (C,), dbias (C,) or None

    dsum (..., C): another gradient of x, which is added to dx.
    """
    x, mean, rstd, weight, has_bias = saved
    for name, array in (("dy", dy), ("dsum", dsum)):
        if array is not None:
            because = f"x is {x.shape}"
            check_array("layer_norm_backward", name, array, like=x, shape=x.shape, dtype=x.dtype, because=because)
    rows, width = len(mean), x.shape[-1]
    blocks = blocks_of_rows(rows, width)
    dx, partials = empty(x.shape, x, x.dtype), empty((1 + has_bias, blocks, width), x)
    sizes = (np.int32(has_bias), np.int64(rows), np.int32(width))
    arguments = (dy, x, mean, rstd, weight, NULL if dsum is None else dsum, dx, partials, *sizes)
    kernel = instance("layer_norm_backward", width, (x, dy, weight, dsum))
    CUDA.launch(kernel, (blocks,), (threads_of_row(width, kernel),), arguments)
    dweight, *dbias = column_sums(CUDA, partials)
    return dx, dweight, dbias[0] if has_bias else None


def check_norm(kernel: str, x, weight, bias=None) -> tuple[int, int]:
    """Raises unless weight and bias fit the last axis of x.

    Returns the number of rows and their width.
    """
    if getattr(x, "ndim", 0) == 0:
        raise ValueError(f"{kernel}: x needs at least one axis")
    check_array(kernel, "x", x, dtype=FLOATS)
    width = x.shape[-1]
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None:
            check_array(kernel, name, array, like=x, shape=(width,), because=f"x has {width} channels")
    if not 0 < width <= MAX_WIDTH:
        operation = kernel.removesuffix("_forward")
        raise ValueError(
            f"{kernel}: x has {width} channels, the kernel takes 1 to {MAX_WIDTH}: "
            f"minillm.kernels.use_kernels({operation}=False) does without it"
        )
    return math.prod(x.shape[:-1]), width
