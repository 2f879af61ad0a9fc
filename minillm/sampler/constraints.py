"""Constraints: tokens that are biased, banned or forced, independently of the model.

Each is a function from logits (B, V) to logits (B, V); its argument is not changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np


def logit_bias(logits, bias: Mapping[int, float]):
    """Add to the logits of some tokens: l_i + bias_i. A bias of -inf is a ban.

    Source: OpenAI's API reference, `logit_bias`. A difference of d multiplies the odds against
    every other token by e^d.

    >>> logit_bias(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), {0: 5, 3: -1})
    array([[6., 3., 2., 1.]], dtype=float32)
    """
    if not bias:
        return logits
    biased = logits.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # the sampler refuses NaN and inf afterwards
        biased[:, list(bias)] += np.array(list(bias.values()), np.float64).astype(np.float32)
    return biased


def ban(logits, tokens: Collection[int]):
    """Set the logits of tokens that must not be chosen to -inf.

    >>> ban(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), [1])
    array([[  1., -inf,   2.,   2.]], dtype=float32)
    """
    if not tokens:
        return logits
    banned = logits.copy()
    banned[:, list(tokens)] = -np.inf
    return banned


def force(logits, tokens: list[int | None]):
    """Leave a row a single token, even if it was banned before. tokens (B,): None leaves a row
    unchanged.

    >>> force(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), [2])
    array([[-inf, -inf,   0., -inf]], dtype=float32)
    """
    if all(token is None for token in tokens):
        return logits
    forced = logits.copy()
    for row, token in zip(forced, tokens):
        if token is not None:
            row[:] = -np.inf
            row[token] = 0
    return forced


def forbid_end(logits, end_tokens: Collection[int], too_short):
    """Ban the end tokens in rows that are still too short. too_short (B,) bool

    >>> forbid_end(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), [1], [True])
    array([[  1., -inf,   2.,   2.]], dtype=float32)
    """
    if not np.any(too_short):
        return logits
    kept = logits.copy()
    kept[np.ix_(np.flatnonzero(too_short), list(end_tokens))] = -np.inf
    return kept
