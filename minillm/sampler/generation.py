"""Generation: the model's own words become its next input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minillm.errors import UserError
from minillm.models.decoding import reader
from minillm.sampler.sampler import Sampler


def generate(model, ids, max_new_tokens: int, sampler: Sampler | None = None) -> Iterator[np.ndarray]:
    """Continue ids (B, T) token by token; yields the next ids (B,), `max_new_tokens` times.

    The prompt is read in one pass and then a token at a time (minillm/models/decoding.py). When the model's context is full,
    its oldest quarter slides out of view. The default sampler draws from the model's own probabilities. Raises UserError for
    an empty prompt or ids outside the vocabulary.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise UserError(f"the prompt has shape {ids.shape}: at least one token is needed, as (B, T), to continue from")
    sampler = sampler or Sampler()
    read = reader(model)
    for _ in range(max_new_tokens):
        token = sampler.sample(read(ids))
        yield token
        ids = token[:, None]
