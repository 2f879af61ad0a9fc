"""Softmax: turns scores into probabilities, the largest score into the largest probability.

    p_i = exp(x_i) / sum_j exp(x_j) = exp(x_i - m) / sum_j exp(x_j - m)        m = max_j x_j: nothing overflows

Backward. Every probability depends on every score, dp_j/dx_i = p_j (delta_ij - p_i), so

    dx_i = sum_j dp_j p_j (delta_ij - p_i) = p_i (dp_i - sum_j dp_j p_j)

In words: raising a score helps as far as its probability's gradient exceeds the average gradient.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module
from minillm.layers.layer import Layer


def softmax_forward(x, out=None):
    """x (..., V)  ->  probabilities over the last axis (..., V), saved. A score of -inf has
    probability 0.

    out: an array for the probabilities, which may be x itself.
    """
    xp = array_module(x)
    p = xp.subtract(x, row_max(x), out=out)
    xp.exp(p, out=p)
    p *= 1 / row_sum(p)
    return p, p


def softmax_backward(dp, saved):
    """dp (..., V)  ->  dx (..., V)"""
    p = saved
    # forward: p = xp.subtract(x, row_max(x), out=out); xp.exp(p, out=p); p *= 1 / row_sum(p):
    # p = exp(x) / sum(exp(x))
    average = row_sum(dp * p)  # sum_j dp_j p_j
    return p * (dp - average)


# ------------------------------------------------------------------------------------------------------- rows at speed


def row_max(x):
    """x.max(axis=-1, keepdims=True), by way of argmax, for which NumPy has vector code: 2.5 times
    as fast."""
    rows = x.reshape(-1, x.shape[-1])
    xp = array_module(x)
    return rows[xp.arange(len(rows)), rows.argmax(axis=-1)].reshape(*x.shape[:-1], 1)


def row_sum(x):
    """x.sum(axis=-1, keepdims=True) as a product with ones: the BLAS takes a sixth of the time."""
    return x @ array_module(x).ones((x.shape[-1], 1), dtype=x.dtype)


class Softmax(Layer):
    """Probabilities over the last axis, x (..., V) -> p (..., V)."""

    def forward(self, x):
        """x (..., V)  ->  p (..., V)"""
        p, saved = softmax_forward(x)
        self.save_for_backward(saved)
        return p

    def backward(self, dp):
        """dp (..., V)  ->  dx (..., V). Raises RuntimeError without a forward before it."""
        # forward: p, saved = softmax_forward(x)
        return softmax_backward(dp, self.take_saved())
