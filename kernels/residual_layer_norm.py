"""Launcher of residual_layer_norm.cu: the functions of minillm/layers/residual_layer_norm.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_INSTANCES, column_sums
from minillm.kernels.launch import CudaFile, ResourceLimit, check_array, empty
from minillm.kernels.layer_norm import check_norm
from minillm.kernels.vectors import NULL, ROW_CONSTANTS, blocks_of_rows, instance, instances, threads_of_row

CUDA = CudaFile(
    __file__,
    "residual_layer_norm.cu",
    {
        **COLUMN_SUM_INSTANCES,
        **instances("residual_layer_norm_forward", ResourceLimit(registers=80, shared=128), by_one=128),
        **instances("residual_layer_norm_backward", ResourceLimit(registers=80, shared=128), by_one=128),
    },
    constants=ROW_CONSTANTS,
)


class ResidualLayerNormSaved(NamedTuple):
    """What backward needs of forward."""

    sum: Any  # (..., C)
    mean: Any  # (N,)
    rstd: Any  # (N,)
    weight: Any  # (C,)
    has_bias: bool
    has_delta_bias: bool


def residual_layer_norm_forward(x, delta, weight, bias=None, eps=1e-5, delta_bias=None):
    """x and delta (..., C), weight (C,), bias and delta_bias (C,) or None  ->  (sum, y), both
    (..., C), saved
    """
    rows, width = check_norm("residual_layer_norm_forward", x, weight, bias)
    check_delta("residual_layer_norm_forward", x, delta, delta_bias)
    total, y = empty(x.shape, x, x.dtype), empty(x.shape, x, x.dtype)
    mean, rstd = empty((rows,), x), empty((rows,), x)
    kernel = instance("residual_layer_norm_forward", width, (x, delta, delta_bias, weight, bias))
    pointers = (NULL if delta_bias is None else delta_bias, weight, NULL if bias is None else bias)
    arguments = (x, delta, *pointers, total, y, mean, rstd, np.int64(rows), np.int32(width), np.float32(eps))
    CUDA.launch(kernel, (blocks_of_rows(rows, width, 2),), (threads_of_row(width, kernel),), arguments)
    return (total, y), ResidualLayerNormSaved(total, mean, rstd, weight, bias is not None, delta_bias is not None)


def residual_layer_norm_backward(dsum, dy, saved):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, dweight (C,), dbias and
    ddelta_bias (C,) or None
    """
    total, mean, rstd, weight, *has_biases = saved
    check_gradients("residual_layer_norm_backward", total, dsum, dy)
    rows, width = len(mean), total.shape[-1]
    blocks = blocks_of_rows(rows, width)
    dx, partials = empty(total.shape, total, total.dtype), empty((1 + sum(has_biases), blocks, width), total)
    sizes = (*map(np.int32, has_biases), np.int64(rows), np.int32(width))
    kernel = instance("residual_layer_norm_backward", width, (total, dsum, dy, weight))
    arguments = (dsum, dy, total, mean, rstd, weight, dx, partials, *sizes)
    CUDA.launch(kernel, (blocks,), (threads_of_row(width, kernel),), arguments)
    dweight, *found = column_sums(CUDA, partials)
    dbias, ddelta_bias = (found.pop(0) if has_it else None for has_it in has_biases)
    return dx, dweight, dbias, ddelta_bias


def check_delta(kernel: str, x, delta, delta_bias) -> None:
    """Raises unless delta is like x, and its bias fits the last axis."""
    check_array(kernel, "delta", delta, like=x, shape=x.shape, dtype=x.dtype, because=f"x is {x.shape}")
    if delta_bias is not None:
        because = f"x has {x.shape[-1]} channels"
        check_array(kernel, "delta_bias", delta_bias, like=x, shape=x.shape[-1:], because=because)


def check_gradients(kernel: str, total, dsum, dy) -> None:
    """Raises unless both gradients are like the sum."""
    for name, array in (("dsum", dsum), ("dy", dy)):
        because = f"x is {total.shape}"
        check_array(kernel, name, array, like=total, shape=total.shape, dtype=total.dtype, because=because)
