"""The few largest of many numbers, without sorting the rest."""

from __future__ import annotations

import numpy as np


def ranked(values, count: int) -> np.ndarray:
    """The places of the `count` largest of values (N,), largest first, ties to the lowest place; -inf is none of them.

    >>> ranked(np.array([1.0, 3.0, -np.inf, 2.0, 3.0, 2.0]), 3)
    array([1, 4, 3])
    """
    threshold = -np.inf if count >= len(values) else np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero((values >= threshold) & (values > -np.inf))
    return places[np.argsort(-values[places], kind="stable")][:count]
