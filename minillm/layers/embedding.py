"""Embedding: a table with one learned row for each token (or position); forward looks rows up.

    y_n = W[id_n]                                            n: one of the N = B*T tokens

Backward. W_vc takes part in y_nc for every n with id_n = v, so the chain rule sums over all of
them:

    dL/dW_vc = sum_n dy_nc [id_n = v]                        a token that occurs five times gets five contributions

A plain `dW[ids] += dy` keeps only one of them. Here the rows of dy are sorted by id, so that equal
ids are together, and each run is summed at once: no order of additions depends on threads, so the
result is the same to the bit each time.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module
from minillm.backend.precision import upcast
from minillm.kernels import dispatch
from minillm.layers.layer import Layer, Parameter


def embedding_forward(ids, weight, dtype=None):
    """ids (...) int, weight (V, C)  ->  y (..., C) of `dtype`, by default the weight's, saved

    ids may be a slice: rows that lie one after the other, of which y may be a view.
    """
    return weight[ids].astype(weight.dtype if dtype is None else dtype, copy=False), (ids, weight.shape)


def embedding_backward(dy, saved, dweight=None):
    """dy (..., C)  ->  dweight (V, C); ids have no gradient.

    dweight: a buffer that the gradient is added to; by default a new one. A tied embedding adds to
    what the output head has left there, and a table of 50,257 rows of which a batch touches a few
    hundred is not made anew for them.
    """
    ids, weight_shape = saved
    xp = array_module(dy)
    dy_rows = upcast(dy).reshape(-1, dy.shape[-1])  # (N, C)
    # forward: weight[ids]: a row that is read several times gets the sum of its gradients
    if dweight is None:
        dweight = xp.zeros(weight_shape, dtype=dy_rows.dtype)
    if isinstance(ids, slice):  # each row once
        dweight[ids] += dy_rows
        return dweight
    if xp is not np:  # CuPy has no reduceat
        xp.add.at(dweight, ids.reshape(-1), dy_rows)
        return dweight
    order = np.argsort(ids, axis=None, kind="stable")
    sorted_ids = ids.reshape(-1)[order]
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))  # where each run of equal ids begins
    if len(starts):
        dweight[sorted_ids[starts]] += np.add.reduceat(dy_rows[order], starts, axis=0)
    return dweight


class Embedding(Layer):
    """y = weight[ids], ids (...) -> y (..., C). Backward returns None: integers have no gradient.

    dtype: of y, where it is not that of the weight: here it is decided in which precision vectors
    travel on.
    """

    def __init__(self, weight):
        self.weight = Parameter(weight)

    def forward(self, ids, dtype=None):
        """ids (...) int, or a slice  ->  y (..., C) of `dtype`, by default the weight's."""
        forward, backward = dispatch(self.weight.peek(), embedding_forward, embedding_backward)
        if isinstance(ids, slice):  # nothing to look up
            forward, backward = embedding_forward, embedding_backward
        y, saved = forward(ids, self.weight.peek(), dtype)
        self.save_for_backward((backward, saved))
        return y

    def backward(self, dy) -> None:
        """dy (..., C): adds to the weight's gradient.

        Raises RuntimeError without a forward before it.
        """
        if self.weight.frozen:
            self.take_saved()
            return
        buffer = self.weight.grad_buffer() if self.weight.grad is None else self.weight.grad
        embedding_backward, saved = self.take_saved()
        # forward: y, saved = forward(ids, self.weight.peek(), dtype)
        self.weight.grad = embedding_backward(dy, saved, buffer)

    def decode(self, ids, cache):
        """ids (...) int -> y (..., C), of the weight's dtype; on a device of the cache's."""
        weight = self.weight.peek()
        if not cache.on_device:
            return weight[ids]
        forward, _ = dispatch(weight, embedding_forward, embedding_backward)
        return forward(ids, cache.weight(self.weight, weight), cache.dtype)[0]
