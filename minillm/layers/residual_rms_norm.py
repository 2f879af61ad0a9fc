"""Residual add and the RMS norm that follows it, as one operation. On a GPU that saves trips to
memory.

    s = x + (delta + b')        y = rms_norm(s)

b' is the bias of the linear layer that computed delta, if it has one that was left to this
operation (`with_bias=False`). Both results are used: s goes on along the residual stream, y into
the next branch.

Backward. s takes part twice, so its two gradients add up; a sum hands its gradient to all terms
unchanged, and b' is the same for every row:

    dx = ddelta = dsum + (gradient that comes back through the norm)        rms_norm.py derives the second term
    db' = sum over rows of dx
"""

from __future__ import annotations

from minillm.backend.precision import downcast, upcast
from minillm.kernels import dispatch
from minillm.layers.residual_layer_norm import sum_of_rows
from minillm.layers.rms_norm import RMSNorm, rms_norm_backward, rms_norm_forward


def residual_rms_norm_forward(x, delta, weight, eps=1e-5, delta_bias=None):
    """x and delta (..., C), weight (C,), delta_bias (C,) or None  ->  (sum, y), both (..., C),
    saved

    eps: added to the mean of squares.
    """
    added = upcast(delta)
    if delta_bias is not None:
        added = added + delta_bias
    total = downcast(upcast(x) + added, x)
    y, saved = rms_norm_forward(total, weight, eps)
    return (total, y), (saved, delta_bias is not None)


def residual_rms_norm_backward(dsum, dy, saved):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, dweight (C,), ddelta_bias (C,) or
    None
    """
    saved, has_delta_bias = saved
    # forward: y, saved = rms_norm_forward(total, weight, eps)
    dx, dweight = rms_norm_backward(upcast(dy), saved)
    # forward: upcast(x) + added: total is a result too, with the gradient dsum
    dx += upcast(dsum)
    # forward: added = added + delta_bias: the same bias for every row
    ddelta_bias = sum_of_rows(dx) if has_delta_bias else None
    return downcast(dx, dy), dweight, ddelta_bias


def rms_norm_of_sum(norm: RMSNorm, x, delta, delta_bias=None):
    """s = x + (delta + delta_bias), and norm(s)  ->  s, y; what backward needs is kept in the
    layer.
    """
    forward, backward = dispatch(x, residual_rms_norm_forward, residual_rms_norm_backward)
    results, saved = forward(x, delta, norm.weight.value, norm.eps, delta_bias)
    norm.save_for_backward((backward, saved))
    return results


def rms_norm_of_sum_backward(norm: RMSNorm, dsum, dy):
    """dsum and dy (..., C)  ->  dx (..., C), which is ddelta too, ddelta_bias (C,) or None; adds to
    the gradient of the norm.
    """
    residual_rms_norm_backward, saved = norm.take_saved()
    # forward: results, saved = forward(x, delta, norm.weight.value, norm.eps, delta_bias)
    dx, dweight, ddelta_bias = residual_rms_norm_backward(dsum, dy, saved)
    norm.weight.add_grad(dweight)
    return dx, ddelta_bias
