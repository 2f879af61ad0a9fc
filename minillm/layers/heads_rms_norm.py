r"""An RMS norm over each head, where ranks share the heads (Qwen3's q_norm and k_norm).

rms_norm.py derives the norm. Its weight w (D,) is one for all heads, and whole in every rank. So it
is read by all ranks, as a whole x is: f of ranks.py, with a sum backward.

    y_hd = normed_hd w_d               for the heads h of rank r
    dw_d = sum_h dy_hd normed_hd = sum_r (sum over h of r: dy_hd normed_hd)      D numbers exchanged
    dx                                 each head by itself: nothing is exchanged
"""

from __future__ import annotations

from minillm.kernels import dispatch
from minillm.layers.column_linear import as_parameter
from minillm.layers.ranks import sum_over_ranks
from minillm.layers.rms_norm import RMSNorm, rms_norm_backward, rms_norm_forward


def heads_rms_norm_forward(x, weight, eps=1e-5):
    """x (..., D), of the heads of this rank, weight (D,), whole  ->  y (..., D), saved"""
    forward, backward = dispatch(x, rms_norm_forward, rms_norm_backward)
    y, saved = forward(x, weight, eps)
    return y, (backward, saved)


def heads_rms_norm_backward(dy, saved, communicator, dsum=None):
    """dy (..., D)  ->  dx (..., D), dweight (D,); dweight is whole. dsum: see rms_norm_backward."""
    backward, saved = saved
    # forward: y, saved = forward(x, weight, eps)
    dx, dweight = backward(dy, saved, dsum)
    # forward: y, saved = forward(x, weight, eps): the same weight for the heads of all ranks
    dweight = sum_over_ranks(dweight, communicator)
    return dx, dweight


class HeadsRMSNorm(RMSNorm):
    """x (..., D) -> y (..., D), of the heads of this rank."""

    def __init__(self, weight, eps: float, communicator):
        """weight (D,), or a Parameter."""
        self.weight, self.eps = as_parameter(weight), eps
        self._communicator = communicator

    def forward(self, x):
        """x (..., D)  ->  y (..., D)"""
        y, saved = heads_rms_norm_forward(x, self.weight.value, self.eps)
        self.save_for_backward(saved)
        return y

    def backward(self, dy, dsum=None):
        """dy (..., D)  ->  dx (..., D); adds to the weight's gradient.

        dsum: as in RMSNorm.backward. Raises RuntimeError without a forward before it.
        """
        # forward: y, saved = heads_rms_norm_forward(x, self.weight.value, self.eps)
        dx, dweight = heads_rms_norm_backward(dy, self.take_saved(), self._communicator, dsum)
        self.weight.add_grad(dweight)
        return dx

    decode = RMSNorm.decode
