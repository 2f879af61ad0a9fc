"""Launcher of layer_norm.cu: the functions of minillm/layers/layer_norm.py, for "cuda" and
"cudasim".
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_CONSTANTS, COLUMN_SUM_INSTANCES, column_sum
from minillm.kernels.launch import (
    FLOATS,
    NUMBERS,
    CudaFile,
    ResourceLimit,
    blocks_for,
    c_type,
    check_array,
    empty,
    row_threads,
)

# dweight and dbias of a row lie in the 48 KB of shared memory that every GPU grants a block.
MAX_WIDTH = 6016
MAX_PARTIALS = 512  # blocks of backward, each of which leaves one row of partial sums

_instances = dict(COLUMN_SUM_INSTANCES)
for _number in NUMBERS.values():
    for _biased in ("true", "false"):
        _instances[f"layer_norm_forward<{_number}, {_biased}>"] = ResourceLimit(registers=32, shared=128)
    _instances[f"layer_norm_backward<{_number}>"] = ResourceLimit(40, shared=128, dynamic_shared=8 * MAX_WIDTH)
CUDA = CudaFile(__file__, "layer_norm.cu", _instances, constants=COLUMN_SUM_CONSTANTS)


class LayerNormSaved(NamedTuple):
    """What backward needs of forward."""

    x: Any  # (..., C); after residual_layer_norm, the sum
    mean: Any  # (N,)
    rstd: Any  # (N,)
    weight: Any  # (C,)
    has_bias: bool


def layer_norm_forward(x, weight, bias=None, eps=1e-5):
    """x (..., C), weight (C,), bias (C,) or None  ->  y (..., C), saved"""
    rows, width = check_norm("layer_norm_forward", x, weight, bias)
    y, mean, rstd = empty(x.shape, x, x.dtype), empty((rows,), x), empty((rows,), x)
    kernel = f"layer_norm_forward<{c_type(x)}, {'false' if bias is None else 'true'}>"
    arguments = (x, weight, weight if bias is None else bias, y, mean, rstd, np.int32(width), np.float32(eps))
    CUDA.launch(kernel, (rows,), (row_threads(width),), arguments)
    return y, LayerNormSaved(x, mean, rstd, weight, bias is not None)


def layer_norm_backward(dy, saved):
    """dy (..., C)  ->  dx (..., C), dweight (C,), dbias (C,) or None"""
    x, mean, rstd, weight, has_bias = saved
    check_array("layer_norm_backward", "dy", dy, like=x, shape=x.shape, dtype=x.dtype, because=f"x is {x.shape}")
    rows, width = len(mean), x.shape[-1]
    blocks = blocks_for(rows, 1, MAX_PARTIALS)
    dx, partials = empty(x.shape, x, x.dtype), empty((2, blocks, width), x)
    arguments = (dy, x, mean, rstd, weight, dx, partials[0], partials[1], np.int64(rows), np.int32(width))
    CUDA.launch(
        f"layer_norm_backward<{c_type(x)}>", (blocks,), (row_threads(width),), arguments, shared_bytes=8 * width
    )
    return dx, column_sum(CUDA, partials[0]), column_sum(CUDA, partials[1]) if has_bias else None


def check_norm(kernel: str, x, weight, bias=None, max_width=MAX_WIDTH) -> tuple[int, int]:
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
    if not 0 < width <= max_width:
        operation = kernel.removesuffix("_forward")
        raise ValueError(
            f"{kernel}: x has {width} channels, the kernel takes 1 to {max_width}: "
            f"minillm.kernels.use_kernels({operation}=False) does without it"
        )
    return math.prod(x.shape[:-1]), width
