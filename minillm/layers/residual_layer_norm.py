"""Residual add and the layer norm that follows it, as one operation. On a GPU that saves a trip to
memory.

    s = x + delta        y = layer_norm(s)

Both results are used: s goes on along the residual stream, y into the next branch.

Backward. s takes part twice, so its two gradients add up, and a sum hands its gradient to both
terms unchanged:

    dx = ddelta = dsum + (gradient that comes back through the norm)        layer_norm.py derives the second term
"""

from __future__ import annotations

from minillm.backend.precision import downcast, upcast
from minillm.layers.layer_norm import layer_norm_backward, layer_norm_forward


def residual_layer_norm_forward(x, delta, weight, bias=None, eps=1e-5):
    """x and delta (..., C), weight (C,), bias (C,) or None  ->  (sum, y), both (..., C), saved

    eps: added to the variance.
    """
    total = x + delta
    y, saved = layer_norm_forward(total, weight, bias, eps)
    return (total, y), saved


def residual_layer_norm_backward(dsum, dy, saved):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, dweight (C,), dbias
    (C,) or None
    """
    # forward: y, saved = layer_norm_forward(total, weight, bias, eps)
    dx, dweight, dbias = layer_norm_backward(upcast(dy), saved)
    # forward: total = x + delta: total is a result too, with the gradient dsum
    dx += upcast(dsum)
    return downcast(dx, dy), dweight, dbias
