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
    return np.array([_drawn(row, number) for row, number in zip(probabilities, uniform)], np.intp)


BLOCK = 256


def _drawn(p, number: float) -> int:
    """For one row. Sums of blocks come first, and only the block that the number falls into is summed token by token.

    A cumulative sum waits for every addition before the next; sums of blocks do not, and take a fifth of the time.
    """
    sums = np.add.reduceat(p, np.arange(0, len(p), BLOCK), dtype=np.float64)
    ends = np.cumsum(sums)
    point = number * ends[-1]
    block = _right_of(ends, sums, point)
    first = block * BLOCK
    inside = p[first : first + BLOCK]
    start = ends[block - 1] if block else 0.0
    return first + _right_of(start + np.cumsum(inside, dtype=np.float64), inside, point)


def _right_of(ends, sizes, point: float) -> int:
    """The first place that ends beyond the point; the last one that is not empty if rounding let the point pass it."""
    place = int(np.searchsorted(ends, point, side="right"))
    return place if place < len(ends) else int(np.flatnonzero(sizes)[-1])


def cdf_interval(probabilities, index: int) -> tuple[float, float]:
    """Where a token's share of [0, 1) begins and ends, for one row of probabilities (V,): the numbers that draw it.

    >>> cdf_interval(np.array([0.5, 0.0, 0.25, 0.25]), 2)
    (0.5, 0.75)
    """
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    return float((cumulative[index - 1] if index else 0) / cumulative[-1]), float(cumulative[index] / cumulative[-1])
