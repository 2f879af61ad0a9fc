"""Generation with a model's own forward pass: what a decoder uses for a model whose layers cannot
all decode.

A layer without `decode` may read other tokens in any way (layers/layer.py). So all visible ids are
computed at each step, by `forward` as it is: a text of n tokens costs n passes, and is the text of
the model that was built.

Rows of unequal length are computed apart, each without its padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minillm.backend.arrays import array_module, to_host
from minillm.errors import UserError
from minillm.layers.layer import evaluating as evaluating_layers
from minillm.models.language_model import LanguageModel


class WholePass:
    """A model that computes all visible ids at each call, in evaluation mode. It is left as it was.

    model: a LanguageModel, or anything with `next_token_logits(ids)` and a `config`.
    """

    def __init__(self, model):
        self.model = model

    def logits(self, ids, padding, count: int):
        """ids (B, T), of which the first `padding` (B,) are none  ->  logits (B, count, V) after
        each of the last columns
        """
        with evaluating(self.model):
            if count > 1 and isinstance(self.model, LanguageModel) and self.model.writes_by_forward():
                return _by_length(lambda rows: self.model.forward(rows)[:, -count:], ids, padding, count)
            ends = range(ids.shape[1] - count + 1, ids.shape[1] + 1)
            columns = [_by_length(self.model.next_token_logits, ids[:, :end], padding, None) for end in ends]
        return array_module(columns[0]).stack(columns, axis=1)

    def hidden(self, ids, padding):
        """ids (B, T)  ->  x (B, T, C), what the head sees; zeros for padding. Raises UserError
        where there is no such x.
        """
        model = self.model
        if not (isinstance(model, LanguageModel) and model.has_own_head()):
            raise UserError(
                f"the vectors below the head are asked for, as contrastive search does, and {type(model).__name__} computes "
                "its logits in a forward of its own: write in another way"
            )
        with evaluating(model):
            return _by_length(model.hidden, ids, padding, ids.shape[1])

    def head(self, x):
        """x (N, C), vectors that `hidden` returned  ->  logits (N, V)"""
        with evaluating(self.model):
            return self.model.logits_of(x)


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Inside, a model is in evaluation mode; then every layer is in its own mode again, with what
    it saved for backward.
    """
    if not isinstance(model, LanguageModel):
        yield
        return
    training, dlogits = model.training, model._dlogits
    with evaluating_layers(model):
        model.eval()
        try:
            yield
        finally:
            model.train(training)
            model._dlogits = dlogits


def _by_length(compute, ids, padding, columns: int | None):
    """compute(ids) for the rows of each length: (n, t) -> (n, ...), or (n, at most `columns`, ...)
    from the right.
    """
    if padding is None:
        return compute(ids)
    padding, xp = to_host(padding), array_module(ids)
    padding = np.minimum(padding, ids.shape[1] - 1)
    found = None
    for first in np.unique(padding):
        rows = xp.asarray(np.flatnonzero(padding == first))
        y = compute(ids[rows, int(first) :])
        if found is None:
            shape = y.shape[1:] if columns is None else (columns, *y.shape[2:])
            found = xp.zeros((len(ids), *shape), y.dtype)
        if columns is None:
            found[rows] = y
        else:
            found[rows, columns - y.shape[1] :] = y
    return found
