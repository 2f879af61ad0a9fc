"""Bias: one learned number for each channel, added to every row.

    y_nj = z_nj + b_j                                       n: row (a token), j: channel

Backward. b_j takes part in y_nj for every row n, so the chain rule sums over the rows; z takes part
once:

    db_j = sum_n dy_nj        dz = dy
"""

from __future__ import annotations

from minillm.backend.arrays import array_module, contiguous
from minillm.backend.matmul import matmul
from minillm.backend.precision import downcast, is_bfloat16
from minillm.kernels import dispatch


def bias_forward(z, bias):
    """z (..., C), bias (C,)  ->  y (..., C), written over z, saved (nothing)"""
    z += downcast(bias, z)
    return z, None


def bias_backward(dy, saved):
    """dy (..., C)  ->  dbias (C,); dz is dy itself."""
    dy_rows = dy.reshape(-1, dy.shape[-1])  # (N, C)
    ones = array_module(dy).ones(len(dy_rows), dtype="float32" if is_bfloat16(dy) else dy.dtype)
    # forward: z += downcast(bias, z): the same bias for every row. As a product with ones the sum
    # runs at the speed of the BLAS.
    return matmul(ones, dy_rows)  # (N,) @ (N, C)


def add_bias(z, bias):
    """z + bias, written over z: by the kernel where there is one."""
    forward, _ = dispatch(z, bias_forward, bias_backward)
    return forward(z, contiguous(bias))[0]


def sum_over_rows(dy):
    """dy (..., C)  ->  its sum over rows (C,): the gradient of a bias, by the kernel where there is
    one.
    """
    _, backward = dispatch(dy, bias_forward, bias_backward)
    return backward(dy, None)
