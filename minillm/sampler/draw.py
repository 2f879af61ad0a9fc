"""Drawing one token from probabilities."""

from __future__ import annotations

import numpy as np


def greedy(logits):
    """The id of the largest logit of each row, the lowest id if several are equal. logits (B, V)
    ->  (B,)
    """
    return np.argmax(logits, axis=-1)


def multinomial(probabilities, uniform):
    """Draw ids by inverting the CDF: probabilities (B, V), uniform (B,) in [0, 1)  ->  ids (B,)

    Each token has an interval of [0, 1) as long as its probability; the token whose interval
    contains the number is drawn. The cumulative sum is in float64 and the number is scaled by its
    last entry: in float32 the sum over a large vocabulary differs visibly from 1, and numbers
    beyond it would belong to no token. With searchsorted's side="right" a token of probability 0 is
    never drawn.

    >>> multinomial(np.array([[0.5, 0.0, 0.25, 0.25]]), np.array([0.5]))
    array([2])
    """
    return np.array([_drawn(row, number) for row, number in zip(probabilities, uniform)], np.intp)


BLOCK = 256


def _drawn(p, number: float) -> int:
    """The id drawn in one row, from sums of blocks and then token by token inside one block.

    In a cumulative sum every addition waits for the one before it. Sums of blocks do not wait for
    each other, and take a fifth of the time.
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
    """The first place that ends beyond the point; by rounding there may be none, then the last
    non-empty one.
    """
    place = int(np.searchsorted(ends, point, side="right"))
    return place if place < len(ends) else int(np.flatnonzero(sizes)[-1])


def cdf_interval(probabilities, index: int) -> tuple[float, float]:
    """The interval [start, end) of numbers that draw a token, for one row of probabilities (V,).

    >>> cdf_interval(np.array([0.5, 0.0, 0.25, 0.25]), 2)
    (0.5, 0.75)
    """
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    return float((cumulative[index - 1] if index else 0) / cumulative[-1]), float(cumulative[index] / cumulative[-1])
