"""Launcher of residual_rms_norm.cu: the functions of minillm/layers/residual_rms_norm.py."""

from __future__ import annotations

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_INSTANCES, column_sums
from minillm.kernels.launch import CudaFile, ResourceLimit, empty
from minillm.kernels.layer_norm import check_norm
from minillm.kernels.residual_layer_norm import check_delta, check_gradients
from minillm.kernels.vectors import NULL, ROW_CONSTANTS, blocks_of_rows, instance, instances, threads_of_row

CUDA = CudaFile(
    __file__,
    "residual_rms_norm.cu",
    {
        **COLUMN_SUM_INSTANCES,
        **instances("residual_rms_norm_forward", ResourceLimit(registers=80, shared=128), by_one=128),
        **instances("residual_rms_norm_backward", ResourceLimit(registers=80, shared=128), by_one=128),
    },
    constants=ROW_CONSTANTS,
)


def residual_rms_norm_forward(x, delta, weight, eps=1e-5, delta_bias=None):
    """x and delta (..., C), weight (C,), delta_bias (C,) or None  ->  (sum, y), both (..., C),
    saved
    """
    rows, width = check_norm("residual_rms_norm_forward", x, weight)
    check_delta("residual_rms_norm_forward", x, delta, delta_bias)
    total, y, rstd = empty(x.shape, x, x.dtype), empty(x.shape, x, x.dtype), empty((rows,), x)
    kernel = instance("residual_rms_norm_forward", width, (x, delta, delta_bias, weight))
    outputs = (total, y, rstd, np.int64(rows), np.int32(width), np.float32(eps))
    arguments = (x, delta, NULL if delta_bias is None else delta_bias, weight, *outputs)
    CUDA.launch(kernel, (blocks_of_rows(rows, width, 2),), (threads_of_row(width, kernel),), arguments)
    return (total, y), (total, rstd, weight, delta_bias is not None)


def residual_rms_norm_backward(dsum, dy, saved):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, dweight (C,), ddelta_bias (C,) or
    None
    """
    total, rstd, weight, has_delta_bias = saved
    check_gradients("residual_rms_norm_backward", total, dsum, dy)
    rows, width = len(rstd), total.shape[-1]
    blocks = blocks_of_rows(rows, width)
    dx, partials = empty(total.shape, total, total.dtype), empty((1 + has_delta_bias, blocks, width), total)
    sizes = (np.int32(has_delta_bias), np.int64(rows), np.int32(width))
    kernel = instance("residual_rms_norm_backward", width, (total, dsum, dy, weight))
    CUDA.launch(
        kernel, (blocks,), (threads_of_row(width, kernel),), (dsum, dy, total, rstd, weight, dx, partials, *sizes)
    )
    dweight, *ddelta_bias = column_sums(CUDA, partials)
    return dx, dweight, ddelta_bias[0] if has_delta_bias else None
