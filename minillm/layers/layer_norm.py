"""Layer norm: brings every token's vector to mean 0 and variance 1, then scales and shifts each
channel.

Source: Ba, Kiros, Hinton, "Layer Normalization" (2016), equation 4. For one row x of width C:

    mean = 1/C sum_i x_i          variance = 1/C sum_i (x_i - mean)^2
    rstd = 1 / sqrt(variance + eps)        n_i = (x_i - mean) rstd        y_i = n_i w_i + b_i

(n is `normed` in the code, and g below `dnormed`.) Backward. w and b are the same for all rows:

    dw_i = sum over rows dy_i n_i          db_i = sum over rows dy_i

Let g_i = dL/dn_i = dy_i w_i. x_i acts on n_j in three ways: directly if i = j, through the mean,
and through rstd. With delta_ij = 1 if i = j, else 0:

    dn_j/dx_i = (delta_ij - 1/C) rstd + (x_j - mean) drstd/dx_i

The variance depends on x_i directly, and through the mean, but that second path adds nothing:

    dvariance/dx_i = 2/C (x_i - mean) - 2/C sum_j (x_j - mean) 1/C,        and sum_j (x_j - mean) = 0
    drstd/dx_i     = -1/2 (variance + eps)^(-3/2) dvariance/dx_i = -rstd^3 (x_i - mean) / C
                   = -rstd^2 n_i / C                                   since x_i - mean = n_i / rstd

Put in, with x_j - mean = n_j / rstd:

    dn_j/dx_i = rstd (delta_ij - 1/C - n_i n_j / C)
    dx_i      = sum_j g_j dn_j/dx_i = rstd (g_i - 1/C sum_j g_j - n_i 1/C sum_j g_j n_j)

In words: the gradient loses its mean and its component along n, the two directions in which n
cannot move.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minillm.backend.arrays import array_module, contiguous
from minillm.backend.precision import downcast, upcast
from minillm.backend.sharing import by_rows
from minillm.kernels import dispatch
from minillm.layers.layer import Layer, Parameter


class LayerNormSaved(NamedTuple):
    """What backward needs of forward."""

    normed: Any  # (N, C)
    rstd: Any  # (N,)
    weight: Any  # (C,)
    has_bias: bool


def layer_norm_forward(x, weight, bias=None, eps=1e-5):
    """x (..., C), weight (C,), bias (C,) or None  ->  y (..., C), saved

    eps: added to the variance.
    """
    xp = array_module(x)
    C = x.shape[-1]
    rows = upcast(x).reshape(-1, C)  # (N, C)
    average = xp.full(C, 1 / C, dtype=rows.dtype)
    # Sums along a row as products with a vector: the BLAS takes a quarter of the time of
    # mean(axis=-1).
    normed = rows - (rows @ average)[:, None]  # x - mean: (N, C)
    variance = xp.square(normed) @ average  # (N,)
    rstd = 1 / xp.sqrt(variance + rows.dtype.type(eps))  # (N,)
    normed *= rstd[:, None]
    y = normed * weight
    if bias is not None:
        y += bias
    return downcast(y, x).reshape(x.shape), LayerNormSaved(normed, rstd, weight, bias is not None)


def layer_norm_backward(dy, saved, dsum=None):
    """dy (..., C)  ->  dx (..., C), dweight (C,), dbias (C,) or None

    dsum (..., C): another gradient of x, from where x goes besides; it is added to dx.
    """
    normed, rstd, weight, has_bias = saved
    xp = array_module(dy)
    N, C = normed.shape
    dy_rows = upcast(dy).reshape(N, C)
    ones = xp.ones(N, dtype=dy_rows.dtype)
    average = xp.full(C, 1 / C, dtype=dy_rows.dtype)
    # forward: y += bias: the same bias, and the same weight, for every row
    dbias = ones @ dy_rows if has_bias else None  # (N,) @ (N, C)
    # forward: y = normed * weight
    product = dy_rows * normed
    dweight = ones @ product  # (N,) @ (N, C)
    dnormed = dy_rows * weight
    # forward: normed = rows - (rows @ average)[:, None]; variance = xp.square(normed) @ average
    # forward: rstd = 1 / xp.sqrt(variance + rows.dtype.type(eps)); normed *= rstd[:, None]:
    # normed = (x - mean) * rstd, where mean and rstd are functions of the whole row
    along_normed = product @ (weight * average)  # 1/C sum_j g_j n_j, g = dy w: (N,)
    dx = dnormed
    dx -= (dnormed @ average)[:, None]
    dx -= xp.multiply(normed, along_normed[:, None], out=product)
    dx *= rstd[:, None]
    if dsum is not None:
        dx += upcast(dsum).reshape(N, C)
    return downcast(dx, dy).reshape(dy.shape), dweight, dbias


def layer_norm_again(saved, bias):
    """What layer_norm_forward saved, bias (C,) or None  ->  y (N, C) once more"""
    y = saved.normed * saved.weight
    if bias is not None:
        y += bias
    return y


def layer_norm_of_one_row(x, weight, bias, eps):
    """layer_norm_forward for a NumPy array of one row, x (..., C) -> y (..., C); nothing is saved.

    Half of the array operations: 9 us in place of 32 for C = 768. GPT-2 124M has 25 norms.
    """
    y = x - x.dtype.type(float(np.add.reduce(x, axis=None)) / x.size)
    row = y.reshape(-1)
    rstd = 1 / math.sqrt(float(row.dot(row)) / row.size + eps)
    y *= weight
    y *= y.dtype.type(rstd)
    if bias is not None:
        y += bias
    return y


class LayerNorm(Layer):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the last axis, x (..., C) -> y
    (..., C).
    """

    def __init__(self, weight, bias=None, eps: float = 1e-5):
        """weight (C,), bias (C,) or None; eps is added to the variance."""
        self.weight = Parameter(weight)
        if bias is not None:
            self.bias = Parameter(bias)
        self.eps = eps

    def forward(self, x):
        """x (..., C)  ->  y (..., C)"""
        bias = self.bias.value if hasattr(self, "bias") else None
        forward, backward = dispatch(x, layer_norm_forward, layer_norm_backward)
        y, saved = forward(x, self.weight.value, bias, self.eps)
        self.save_for_backward((backward, saved))
        return y

    def backward(self, dy, dsum=None):
        """dy (..., C)  ->  dx (..., C); adds to the gradients of weight and bias.

        dsum (..., C): another gradient of x, which is added to dx. Raises RuntimeError without a
        forward before it.
        """
        layer_norm_backward, saved = self.take_saved()
        # forward: y, saved = forward(x, self.weight.value, bias, self.eps)
        dx, dweight, dbias = layer_norm_backward(dy, saved, dsum)
        self.weight.add_grad(dweight)
        if dbias is not None:
            self.bias.add_grad(dbias)
        return dx

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> y (B, t, C); see Layer.decode."""
        bias = self.bias.peek() if hasattr(self, "bias") else None
        if x.size == x.shape[-1] and type(x) is np.ndarray:
            return layer_norm_of_one_row(x, self.weight.peek(), bias, self.eps)
        if cache.on_device:
            x, (forward, _) = contiguous(x), dispatch(x, layer_norm_forward, layer_norm_backward)
            return forward(x, self.weight.peek(), bias, self.eps)[0]
        return by_rows(lambda rows: layer_norm_forward(rows, self.weight.peek(), bias, self.eps)[0], x)
