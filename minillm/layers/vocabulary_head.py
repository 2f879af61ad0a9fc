r"""Vocabulary-parallel head: each of N ranks scores some tokens, and all of them get all scores.

W (V, C) is cut along the vocabulary, as a column-parallel layer along its outputs
(column_linear.py):

    z_v = sum_c x_c w_vc        for the tokens v of rank r          z_r = x W_r^T
    z   = [z_0 z_1 ... z_{N-1}]                                     exchanged

as a sum over ranks, each with zeros in the places of the others: x + 0 is x, so the sum is exact.

This is for those who need scores: generation, and losses of your own. Training does not gather them
(vocabulary_cross_entropy.py).

Backward. Every rank has all of z, and computes the same dz from it. Each takes its part of that;
and dx is a sum over all v, of all ranks: f.

    dz_r = dz, the columns of rank r            dx = sum_r dz_r W_r            dW_r = dz_r^T x
"""

from __future__ import annotations

from minillm.backend.arrays import array_module
from minillm.layers.column_linear import as_parameter
from minillm.layers.linear import Linear, linear_backward, linear_forward
from minillm.layers.ranks import share_of, sum_over_ranks


def vocabulary_head_forward(x, weight, vocabulary, communicator, dtype=None):
    """x (..., C), whole, weight (V_r, C)  ->  logits (..., V) of `dtype`, whole, saved

    vocabulary: V.
    """
    z, saved = linear_forward(x, weight, None, True, dtype)  # (..., C) @ (C, V_r)
    own = share_of(communicator.rank, communicator.size, vocabulary)
    logits = array_module(z).zeros((*z.shape[:-1], vocabulary), dtype=z.dtype)
    logits[..., own.start : own.stop] = z
    return sum_over_ranks(logits, communicator), (saved, own)


def vocabulary_head_backward(dlogits, saved, communicator, needs_dweight=True, dweight=None):
    """dlogits (..., V), the same in all ranks  ->  dx (..., C), dweight (V_r, C); dx is whole

    needs_dweight, dweight: as in linear_backward.
    """
    saved, own = saved
    # forward: logits[..., own.start : own.stop] = z
    dz = dlogits[..., own.start : own.stop]
    # forward: z, saved = linear_forward(x, weight, None, True, dtype)
    dx, dweight, _ = linear_backward(dz, saved, needs_dweight, dweight)
    # forward: z, saved = linear_forward(x, weight, None, True, dtype): each rank reads the same x
    dx = sum_over_ranks(dx, communicator)
    return dx, dweight


class VocabularyHead(Linear):
    """x (..., C) -> logits (..., V), both whole."""

    def __init__(self, weight, vocabulary: int, communicator):
        """weight (V_r, C), or a Parameter; vocabulary: V."""
        super().__init__(as_parameter(weight), None, transposed=True)
        self.vocabulary = vocabulary
        self._communicator = communicator

    def forward(self, x, dtype=None):
        """x (..., C)  ->  logits (..., V) of `dtype`, by default that of x."""
        logits, saved = vocabulary_head_forward(x, self.weight.operand(x), self.vocabulary, self._communicator, dtype)
        self.save_for_backward(saved)
        return logits

    def backward(self, dlogits):
        """dlogits (..., V)  ->  dx (..., C); adds to the weight's gradient.

        Raises RuntimeError without a forward before it.
        """
        # forward: logits, saved = vocabulary_head_forward(x, self.weight.operand(x), ...)
        dx, dweight = vocabulary_head_backward(
            dlogits, self.take_saved(), self._communicator, not self.weight.frozen, self.weight.grad_to_add_to()
        )
        if dweight is not None:
            self.weight.add_grad(dweight)
        return dx

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> logits (B, t, V); see Layer.decode."""
        return vocabulary_head_forward(x, self.weight.operand(x), self.vocabulary, self._communicator)[0]
