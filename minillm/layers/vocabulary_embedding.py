r"""Vocabulary-parallel embedding: each of N ranks has the rows of some tokens.

Source: Shoeybi et al., "Megatron-LM" (2019), section 3. ranks.py has the operators f and g.

The table W (V, C) is cut along the vocabulary. A token's row is in one rank, and the others add
zero:

    y_n = sum_r W_r[id_n] [id_n is of rank r]             exchanged: g. x + 0 is x, so the sum is exact

Backward. g hands dy to every rank as it is, and a rank keeps what belongs to its rows:

    dL/dW_vc = sum_n dy_nc [id_n = v]                     for the tokens v of this rank: nothing is exchanged
"""

from __future__ import annotations

from minillm.backend.arrays import array_module
from minillm.layers.column_linear import as_parameter
from minillm.layers.embedding import Embedding, embedding_backward, embedding_forward
from minillm.layers.ranks import sum_over_ranks


def vocabulary_embedding_forward(ids, weight, first, communicator, dtype=None):
    """ids (...) int, weight (V_r, C), the rows of the tokens from `first` on  ->  y (..., C) of
    `dtype`, by default the weight's, saved
    """
    xp = array_module(weight)
    own = (ids >= first) & (ids < first + len(weight))  # (...)
    rows, _ = embedding_forward(xp.where(own, ids - first, 0), weight, dtype)
    y = sum_over_ranks(rows * own[..., None].astype(rows.dtype), communicator)
    return y, (ids, own, first, weight.shape)


def vocabulary_embedding_backward(dy, saved, dweight=None):
    """dy (..., C)  ->  dweight (V_r, C). dweight: as in embedding_backward."""
    ids, own, first, weight_shape = saved
    # forward: y = sum_over_ranks(rows * own[..., None].astype(rows.dtype), communicator): each term
    # has the gradient of the sum, and a row of another rank none
    # forward: rows, _ = embedding_forward(xp.where(own, ids - first, 0), weight, dtype)
    return embedding_backward(dy[own], (ids[own] - first, weight_shape), dweight)


class VocabularyEmbedding(Embedding):
    """ids (...) -> y (..., C), whole. Backward is that of Embedding, with the functions above."""

    def __init__(self, weight, first: int, communicator):
        """weight (V_r, C), or a Parameter: the rows of the tokens from `first` on."""
        self.weight = as_parameter(weight)
        self.first = first
        self._communicator = communicator

    def forward(self, ids, dtype=None):
        """ids (...) int  ->  y (..., C) of `dtype`, by default the weight's."""
        y, saved = vocabulary_embedding_forward(ids, self.weight.peek(), self.first, self._communicator, dtype)
        self.save_for_backward((vocabulary_embedding_backward, saved))
        return y

    def decode(self, ids, cache):
        """ids (...) int -> y (..., C), of the weight's dtype; on a device of the cache's."""
        dtype = cache.dtype if cache.on_device else None
        return vocabulary_embedding_forward(ids, self.weight.peek(), self.first, self._communicator, dtype)[0]
