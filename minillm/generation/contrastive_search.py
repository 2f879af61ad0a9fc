"""Contrastive search: a likely token whose hidden vector is unlike those of the text so far.

Greedy texts repeat themselves, and in such a text the model's hidden vectors of different places
become similar. So of the k likeliest tokens V_k this search takes one that is likely and whose
vector is unlike all before it:

    x_t = argmax over v in V_k of  (1 - a) p(v | x_1 ... x_{t-1})  -  a max over j < t of  cos(h_v, h_j)

h_j is the output of the model's last layer, after the final norm, at place j; h_v is the one at
place t if v is written there; a is the penalty. a = 0 or k = 1 is greedy. The search is
deterministic.

To compute h_v the model reads all k tokens, as k rows of a batch that differ only in their last
column. The logits of the chosen row are used for the next step, so a step is one pass over k rows.

Source: Su, Lan, Wang, Yogatama, Kong, Collier, "A Contrastive Framework for Neural Text Generation"
(2022), equation 5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from numbers import Integral, Real

import numpy as np

from minillm.backend.arrays import array_module, to_host
from minillm.errors import UserError
from minillm.generation.decoder import Decoder
from minillm.generation.generate import FINISHED
from minillm.sampler.cuts import top_k_ids
from minillm.sampler.sampler import Sampler


def contrastive_search(
    model,
    ids,
    max_new_tokens: int,
    *,
    top_k: int = 4,
    penalty_alpha: float = 0.6,
    eos_ids: Collection[int] = (),
    padding=None,
    over=None,
) -> Iterator[np.ndarray]:
    """Continue ids (B, T) token by token; yields the next ids (B,).

    model: a LanguageModel. It yields `max_new_tokens` times, less often if all rows end. top_k: how
    many of the likeliest tokens are tried. penalty_alpha: the weight of dissimilarity, from 0 to 1.
    eos_ids, padding and over are those of `generate`. When the context is full, its oldest quarter
    is dropped, and vectors are compared with those of the visible places. Equal scores: the
    likelier token, then the lowest id. Raises UserError for invalid settings.
    """
    ids = np.asarray(ids)
    _check(ids, top_k, penalty_alpha)
    over = np.zeros(len(ids), bool) if over is None else over
    texts = _written(model, ids, max_new_tokens, min(top_k, model.config.vocab_size), penalty_alpha, padding)
    return _until_over(texts, list(eos_ids), over)


def _until_over(texts, eos_ids, over):
    for token in texts:
        token = np.where(over, FINISHED, token)
        yield token
        over |= np.isin(token, eos_ids)
        if over.all():
            return


def _written(model, ids, max_new_tokens, k, alpha, padding):
    batch, total = ids.shape
    decoder, probabilities = Decoder(model), Sampler().probabilities
    x = decoder.hidden(ids, padding)  # (B, n, C)
    before, last = _unit(x), x[:, -1]  # (B, n, C), (B, C)
    rows = np.arange(batch)
    decoder.reorder(np.repeat(rows, k))  # from here on B k rows, k neighbours for each text
    for _ in range(max_new_tokens):
        p = probabilities(decoder.logits(last))  # (B, V)
        tried = top_k_ids(p, k)  # (B, k), in the order of their ids
        x = decoder.hidden(tried.reshape(-1, 1))  # (B k, n, C)
        total += 1
        if x.shape[1] == decoder.visible:  # the oldest were dropped, and the others were read again
            before = _unit(x[::k, :-1])
        x = x[:, -1].reshape(batch, k, -1)
        alike = _most_alike(_unit(x), before, padding, total - decoder.visible)  # (B, k)
        p_tried = np.take_along_axis(p, tried, axis=1)
        score = (1 - alpha) * p_tried - alpha * alike
        chosen = np.lexsort((-p_tried, -score))[:, 0]  # the largest score; of equal ones, the likeliest
        yield tried[rows, chosen]
        decoder.reorder(np.repeat(rows * k + chosen, k))
        xp = array_module(x)
        last = x[xp.asarray(rows), xp.asarray(chosen)]
        before = xp.concatenate([before, _unit(last)[:, None]], axis=1)


def _unit(x):
    """Scale vectors (..., C) to length 1; zero vectors stay zero."""
    xp = array_module(x)
    length = xp.sqrt(xp.square(x).sum(axis=-1, keepdims=True))
    return x / xp.maximum(length, xp.finfo(x.dtype).tiny)


def _most_alike(x, before, padding, forgotten: int) -> np.ndarray:
    """max over j of cos(x_v, h_j): unit vectors x (B, k, C) and before (B, n, C)  ->  (B, k), in
    host memory.

    padding (B,): columns at the start of each row that hold no token; the first `forgotten` columns
    were dropped. Without any earlier token (a context of one) the result is -1, the smallest
    cosine.
    """
    cosine = to_host(x @ before.swapaxes(1, 2))  # (B, k, C) @ (B, C, n)
    if padding is not None:
        hidden = np.arange(cosine.shape[2]) < np.asarray(padding)[:, None] - forgotten  # (B, n)
        cosine = np.where(hidden[:, None], -1, cosine)
    return cosine.max(axis=-1, initial=-1)


def _check(ids, top_k, penalty_alpha) -> None:
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise UserError(f"the prompt has shape {ids.shape}: at least one token is needed, as (B, T), to continue from")
    if not isinstance(top_k, Integral) or isinstance(top_k, bool) or top_k < 1:
        raise UserError(f"top_k is {top_k}: it must be a whole number of at least 1 (1 is greedy)")
    if not isinstance(penalty_alpha, Real) or not 0 <= penalty_alpha <= 1:
        raise UserError(f"penalty_alpha is {penalty_alpha}: it must be a number from 0 (greedy) to 1")
