"""Generation: the model's own words become its next input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minillm.errors import UserError
from minillm.sampler.sampler import Sampler


def generate(model, ids, max_new_tokens: int, sampler: Sampler | None = None) -> Iterator[np.ndarray]:
    """Continue ids (B, T) token by token; yields the next ids (B,), `max_new_tokens` times.

    The model sees the last `context_length` tokens; older ones slide out of view. The default sampler draws from the model's
    own probabilities. Raises UserError for an empty prompt or ids outside the vocabulary. The model is put in evaluation
    mode while a token is computed, and back afterwards.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise UserError(f"the prompt has shape {ids.shape}: at least one token is needed, as (B, T), to continue from")
    sampler = sampler or Sampler()
    for _ in range(max_new_tokens):
        was_training = model.training
        model.eval()
        try:
            logits = model.next_token_logits(ids[:, -model.config.context_length :])
        finally:
            model.train(was_training)
        token = sampler.sample(logits)
        yield token
        ids = np.concatenate([ids, token[:, None]], axis=1)
