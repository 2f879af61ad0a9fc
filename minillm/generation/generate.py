"""Generation: the model's own words become its next input."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from minillm.errors import UserError
from minillm.generation.decoder import reader
from minillm.sampler.history import History
from minillm.sampler.sampler import Sampler

FINISHED = -1  # what a row that is over yields


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
    """Continue ids (B, T) token by token; yields the next ids (B,), `max_new_tokens` times, fewer if all rows are over.

    The prompt is read in one pass and then a token at a time (minillm/generation/decoder.py). When the model's context is full,
    its oldest quarter slides out of view. The default sampler draws from the model's own probabilities.

    eos_ids: ids that end a row; the row yields this one, and FINISHED from then on. over (B,) bool: rows that are over, in
    which the caller may set more between two tokens. padding (B,): how many ids at the start of each row are none, for
    prompts of unequal length (see `minillm.generation.decoder.left_padded`).

    Raises UserError for an empty prompt or ids outside the vocabulary.
    """
    if isinstance(ids, str):
        raise UserError(f"the prompt is the text {ids!r:.40}: give ids, np.array([tokenizer.encode(text)])")
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
        token = np.where(token == FINISHED, 0, token)  # something to read; nobody looks at what comes of it
        for row, index in zip(history.ids, token.tolist()):
            row.append(index)
        ids = token[:, None]
