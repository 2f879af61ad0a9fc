"""Residual add with the bias of the branch's last linear layer, as one operation. On a GPU that
saves a trip to memory.

    y = x + (branch + b)

The branch comes without the bias (`with_bias=False`). Backward: a sum hands its gradient to all
terms unchanged, and b is the same for every row:

    dx = dbranch = dy        db = sum over rows of dy        residual.py and bias.py derive them
"""

from __future__ import annotations

from minillm.backend.precision import downcast, upcast
from minillm.layers.bias import bias_backward


def residual_bias_forward(x, branch, bias=None):
    """x and branch (..., C), bias (C,) or None  ->  y (..., C), saved"""
    added = upcast(branch)
    if bias is not None:
        added = added + bias
    return downcast(upcast(x) + added, x), bias is not None


def residual_bias_backward(dy, saved):
    """dy (..., C)  ->  dx and dbranch (..., C), dbias (C,) or None. The first two are dy itself:
    not to be written to.
    """
    has_bias = saved
    # forward: added = added + bias: the same bias for every row
    dbias = bias_backward(dy, None) if has_bias else None
    # forward: upcast(x) + added
    return dy, dy, dbias
