"""Residual: a layer adds to the stream of vectors instead of replacing it, so that gradients reach
every depth.

Source: He et al., "Deep Residual Learning for Image Recognition" (2015); with the norm inside the
branch as in GPT-2 ("pre-norm"; Xiong et al., "On Layer Normalization in the Transformer
Architecture", 2020):

    y = x + branch(x)

Backward. A sum hands its gradient to both terms unchanged; x takes part twice, so its two gradients
add up:

    dbranch = dy        dx = dy + (gradient that comes back through the branch)

The first term is why depth does not hurt: whatever the branch does, dy arrives below whole.
"""

from __future__ import annotations


def residual_forward(x, branch):
    """x and branch, the output of a layer that read x, both (..., C)  ->  y (..., C), saved
    (nothing)
    """
    return x + branch, None


def residual_backward(dy, saved):
    """dy (..., C)  ->  dx (..., C) of the direct path, dbranch (..., C). Both are dy itself: not to
    be written to.
    """
    # forward: x + branch
    return dy, dy
