"""Residual add and the layer norm that follows it, as one operation. On a GPU that saves trips to
memory.

    s = x + (delta + b')        y = layer_norm(s)

b' is the bias of the linear layer that computed delta, if it was left to this operation
(`with_bias=False`). Both results are used: s goes on along the residual stream, y into the next
branch.

Backward. s takes part twice, so its two gradients add up; a sum hands its gradient to all terms
unchanged, and b' is the same for every row:

    dx = ddelta = dsum + (gradient that comes back through the norm)        layer_norm.py derives the second term
    db' = sum over rows of dx
"""

from __future__ import annotations

from minillm.backend.arrays import array_module
from minillm.backend.precision import downcast, upcast
from minillm.kernels import dispatch
from minillm.layers.layer_norm import LayerNorm, layer_norm_backward, layer_norm_forward


def residual_layer_norm_forward(x, delta, weight, bias=None, eps=1e-5, delta_bias=None):
    """x and delta (..., C), weight (C,), bias and delta_bias (C,) or None  ->  (sum, y), both
    (..., C), saved

    eps: added to the variance.
    """
    added = upcast(delta)
    if delta_bias is not None:
        added = added + delta_bias
    total = downcast(upcast(x) + added, x)
    y, saved = layer_norm_forward(total, weight, bias, eps)
    return (total, y), (saved, delta_bias is not None)


def residual_layer_norm_backward(dsum, dy, saved):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, dweight (C,), dbias and
    ddelta_bias (C,) or None
    """
    saved, has_delta_bias = saved
    # forward: y, saved = layer_norm_forward(total, weight, bias, eps)
    dx, dweight, dbias = layer_norm_backward(upcast(dy), saved)
    # forward: upcast(x) + added: total is a result too, with the gradient dsum
    dx += upcast(dsum)
    # forward: added = added + delta_bias: the same bias for every row
    ddelta_bias = sum_of_rows(dx) if has_delta_bias else None
    return downcast(dx, dy), dweight, dbias, ddelta_bias


def sum_of_rows(dx):
    """dx (..., C)  ->  (C,)"""
    rows = dx.reshape(-1, dx.shape[-1])  # (N, C)
    return array_module(dx).ones(len(rows), dtype=dx.dtype) @ rows  # (N,) @ (N, C)


def layer_norm_of_sum(norm: LayerNorm, x, delta, delta_bias=None):
    """s = x + (delta + delta_bias), and norm(s)  ->  s, y; what backward needs is kept in the
    layer.
    """
    bias = norm.bias.value if hasattr(norm, "bias") else None
    forward, backward = dispatch(x, residual_layer_norm_forward, residual_layer_norm_backward)
    results, saved = forward(x, delta, norm.weight.value, bias, norm.eps, delta_bias)
    norm.save_for_backward((backward, saved))
    return results


def layer_norm_of_sum_backward(norm: LayerNorm, dsum, dy):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, ddelta_bias (C,) or None; adds to
    the gradients of the norm.
    """
    residual_layer_norm_backward, saved = norm.take_saved()
    # forward: results, saved = forward(x, delta, norm.weight.value, bias, norm.eps, delta_bias)
    dx, dweight, dbias, ddelta_bias = residual_layer_norm_backward(dsum, dy, saved)
    norm.weight.add_grad(dweight)
    if dbias is not None:
        norm.bias.add_grad(dbias)
    return dx, ddelta_bias
