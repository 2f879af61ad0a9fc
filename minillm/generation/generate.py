"""Generation: each token that the model writes becomes part of its next input."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from minillm.errors import UserError
from minillm.generation.decoder import reader
from minillm.sampler.history import History
from minillm.sampler.sampler import Sampler

FINISHED = -1  # yielded for a row that has ended


def generate(
    model,
    ids,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    *,
    eos_ids: Collection[int] = (),
    padding=None,
    over=None,
) -> Iterator[np.ndarray]:
    """Continue ids (B, T) token by token; yields the next ids (B,).

    It yields `max_new_tokens` times, less often if all rows end. The prompt is read in one pass,
    then one token at a time (minillm/generation/decoder.py). When the context is full, its oldest
    quarter is dropped.

    sampler: by default one that draws from the model's own probabilities. eos_ids: ids that end a
    row; the row yields this id, and FINISHED afterwards. over (B,) bool: rows that have ended; the
    caller may set more between two tokens. padding (B,): how many ids at the start of each row are
    padding, for prompts of unequal length (see `minillm.generation.decoder.left_padded`).

    Raises UserError for text instead of ids, an empty prompt, or ids outside the vocabulary.
    """
    if isinstance(ids, str):
        raise UserError(f"the prompt is the text {ids!r:.40}: give ids, np.array([tokenizer.encode(text)])")
    if not hasattr(model, "config"):
        raise UserError(f"the model is a {type(model).__name__}: give one that minillm.from_pretrained opened")
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise UserError(f"the prompt has shape {ids.shape}: at least one token is needed, as (B, T), to continue from")
    sampler, read = sampler or Sampler(), reader(model)
    over = np.zeros(len(ids), bool) if over is None else over
    first = np.zeros(len(ids), int) if padding is None else padding
    history = History([row[start:].tolist() for row, start in zip(ids, first)], [ids.shape[1] - n for n in first])
    for count in range(max_new_tokens):
        logits = read(ids) if count or padding is None else read(ids, padding)
        token = np.where(over, FINISHED, sampler.sample(logits, history))
        yield token
        over |= np.isin(token, list(eos_ids))
        if over.all():
            return
        token = np.where(token == FINISHED, 0, token)  # any valid id: the result of this row is not used
        for row, index in zip(history.ids, token.tolist()):
            row.append(index)
        ids = token[:, None]
