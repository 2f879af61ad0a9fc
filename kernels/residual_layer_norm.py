"""Launcher of residual_layer_norm.cu: the functions of minillm/layers/residual_layer_norm.py."""

from __future__ import annotations

import numpy as np

from minillm.kernels.column_sum import COLUMN_SUM_CONSTANTS, COLUMN_SUM_INSTANCES, column_sum
from minillm.kernels.launch import NUMBERS, CudaFile, ResourceLimit, blocks_for, c_type, check_array, empty, row_threads
from minillm.kernels.layer_norm import MAX_PARTIALS, MAX_WIDTH, LayerNormSaved, check_norm

_instances = dict(COLUMN_SUM_INSTANCES)
for _number in NUMBERS.values():
    for _biased in ("true", "false"):
        _instances[f"residual_layer_norm_forward<{_number}, {_biased}>"] = ResourceLimit(registers=32, shared=128)
    _instances[f"residual_layer_norm_backward<{_number}>"] = ResourceLimit(40, shared=128, dynamic_shared=8 * MAX_WIDTH)
CUDA = CudaFile(__file__, "residual_layer_norm.cu", _instances, constants=COLUMN_SUM_CONSTANTS)


def residual_layer_norm_forward(x, delta, weight, bias=None, eps=1e-5):
    """x and delta (..., C), weight (C,), bias (C,) or None  ->  (sum, y), both (..., C), saved"""
    rows, width = check_norm("residual_layer_norm_forward", x, weight, bias)
    because = f"x is {x.shape}"
    check_array("residual_layer_norm_forward", "delta", delta, like=x, shape=x.shape, dtype=x.dtype, because=because)
    total, y = empty(x.shape, x, x.dtype), empty(x.shape, x, x.dtype)
    mean, rstd = empty((rows,), x), empty((rows,), x)
    kernel = f"residual_layer_norm_forward<{c_type(x)}, {'false' if bias is None else 'true'}>"
    outputs = (total, y, mean, rstd, np.int32(width), np.float32(eps))
    arguments = (x, delta, weight, weight if bias is None else bias, *outputs)
    CUDA.launch(kernel, (rows,), (row_threads(width),), arguments)
    return (total, y), LayerNormSaved(total, mean, rstd, weight, bias is not None)


def residual_layer_norm_backward(dsum, dy, saved):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, dweight (C,), dbias
    (C,) or None
    """
    total, mean, rstd, weight, has_bias = saved
    for name, array in (("dsum", dsum), ("dy", dy)):
        expected = dict(like=total, shape=total.shape, dtype=total.dtype, because=f"x is {total.shape}")
        check_array("residual_layer_norm_backward", name, array, **expected)
    rows, width = len(mean), total.shape[-1]
    blocks = blocks_for(rows, 1, MAX_PARTIALS)
    dx, partials = empty(total.shape, total, total.dtype), empty((2, blocks, width), total)
    outputs = (dx, partials[0], partials[1], np.int64(rows), np.int32(width))
    arguments = (dsum, dy, total, mean, rstd, weight, *outputs)
    kernel = f"residual_layer_norm_backward<{c_type(total)}>"
    CUDA.launch(kernel, (blocks,), (row_threads(width),), arguments, shared_bytes=8 * width)
    return dx, column_sum(CUDA, partials[0]), column_sum(CUDA, partials[1]) if has_bias else None
