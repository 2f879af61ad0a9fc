"""The numbers that describe a tensor: how many, their mean, their spread, the largest; put together from parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minillm.backend.arrays import array_module

STRETCH = 1 << 18  # numbers that are read at a time: in float64 they fit a cache


@dataclass(frozen=True)
class TensorStats:
    """count numbers with this mean; squares: sum of (x - mean)^2; largest: max |x|."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, array) -> TensorStats:
        """Those of an array, summed in float64.

        >>> import numpy as np
        >>> TensorStats.of(np.array([1.0, -3.0])).spread
        2.0
        """
        flat = array_module(array).asarray(array).reshape(-1)
        moments = cls()
        for start in range(0, flat.size, STRETCH):
            stretch = flat[start : start + STRETCH].astype("float64")
            mean, largest = float(stretch.mean()), float(abs(stretch).max())
            stretch -= mean
            moments += cls(stretch.size, mean, float(stretch @ stretch), largest)
        return moments

    def __add__(self, other: TensorStats) -> TensorStats:
        """Those of both parts together. Chan, Golub, LeVeque, "Updating Formulae ... for Computing Sample Variances" (1979).

        >>> import numpy as np
        >>> a, b = np.arange(5.0), np.arange(3.0) ** 2
        >>> whole, parts = TensorStats.of(np.concatenate([a, b])), TensorStats.of(a) + TensorStats.of(b)
        >>> bool(np.isclose(whole.spread, parts.spread)) and whole.largest == parts.largest
        True
        """
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        squares = self.squares + other.squares + apart**2 * self.count * other.count / count
        return TensorStats(count, mean, squares, _larger(self.largest, other.largest))

    @property
    def spread(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @property
    def norm(self) -> float:
        """The square root of the sum of squares: sum x^2 = sum (x - mean)^2 + count mean^2."""
        return math.sqrt(self.squares + self.count * self.mean**2)


def _larger(a: float, b: float) -> float:
    """max(a, b), but NaN if one is: Python's max may lose it."""
    return a + b if math.isnan(a + b) else max(a, b)
