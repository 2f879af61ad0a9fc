"""Drawing one token from probabilities."""

from __future__ import annotations

import numpy as np


def greedy(logits):
    """The id of the largest logit of each row, the lowest id if several are equal. logits (B, V)  ->  (B,)"""
    return np.argmax(logits, axis=-1)


def multinomial(probabilities, uniform):
    """The id in whose share of [0, 1) the number falls: probabilities (B, V) and uniform (B,) in [0, 1)  ->  ids (B,)

    The cumulative sum is taken in float64 and the number is scaled by its last entry: in float32 the sum over a large
    vocabulary ends visibly away from 1, and numbers beyond it would fall outside of every token. The search is from the
    right, so that a token of probability 0, whose share is empty, is never drawn.

    >>> multinomial(np.array([[0.5, 0.0, 0.25, 0.25]]), np.array([0.5]))
    array([2])
    """
    cumulative = np.cumsum(probabilities, axis=-1, dtype=np.float64)
    points = uniform * cumulative[:, -1]
    drawn = [np.searchsorted(row, point, side="right") for row, point in zip(cumulative, points)]
    last = probabilities.shape[-1] - 1 - np.argmax(probabilities[:, ::-1] > 0, axis=-1)  # rounding cannot pass it
    return np.minimum(drawn, last)


def share_of(probabilities, index: int) -> tuple[float, float]:
    """Where a token's share of [0, 1) begins and ends, for one row of probabilities (V,): the numbers that draw it.

    >>> share_of(np.array([0.5, 0.0, 0.25, 0.25]), 2)
    (0.5, 0.75)
    """
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    return float((cumulative[index - 1] if index else 0) / cumulative[-1]), float(cumulative[index] / cumulative[-1])
