"""A trial of a kernel: what its launcher gives, and what should come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minillm.backend.precision import bfloat16
from minillm.checks.agreement import relative_error
from minillm.checks.case import FORWARD

DEVICE = "cudasim"
BFLOAT16 = 2**-8  # relative error of a number that was rounded to bfloat16 once


class Trial(NamedTuple):
    """run, expected: the results by name. allowed: the relative error, norm-wise, of all or by
    name.
    """

    label: str
    run: Callable[[], dict[str, np.ndarray]]
    expected: Callable[[], dict[str, np.ndarray]]
    allowed: float | Callable[[str], float] = FORWARD

    def limit(self, name: str) -> float:
        """The relative error that a result may have."""
        return self.allowed(name) if callable(self.allowed) else self.allowed

    def __str__(self) -> str:
        return self.label


def difference(found, expected) -> float:
    """The relative error; NaN equals NaN, and an infinity itself."""
    found, expected = np.asarray(found).astype(np.float64), np.asarray(expected).astype(np.float64)
    if found.shape != expected.shape:
        return np.inf
    special = ~np.isfinite(expected)
    if not np.array_equal(found[special], expected[special], equal_nan=True) or not np.isfinite(found[~special]).all():
        return np.inf
    return relative_error(found[~special], expected[~special])


def normal(seed: int, *shape: int, dtype="float32") -> np.ndarray:
    """Standard normal numbers, always the same ones."""
    return np.random.default_rng(seed).normal(size=shape).astype(bfloat16() if dtype == "bfloat16" else dtype)
