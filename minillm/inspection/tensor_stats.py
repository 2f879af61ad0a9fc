"""Statistics of a tensor: count, mean, standard deviation and largest magnitude."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minillm.backend.arrays import array_module

CHUNK = 1 << 18  # elements at a time: in float64 they fit a cache


@dataclass(frozen=True)
class TensorStats:
    """count: elements. squares: sum of (x - mean)^2. max_abs: max |x|."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    max_abs: float = 0.0

    @classmethod
    def of(cls, array) -> TensorStats:
        """The statistics of an array, summed in float64.

        >>> import numpy as np
        >>> TensorStats.of(np.array([1.0, -3.0])).std
        2.0
        """
        flat = array_module(array).asarray(array).reshape(-1)
        stats = cls()
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK].astype("float64")
            mean, max_abs = float(chunk.mean()), float(abs(chunk).max())
            chunk -= mean
            stats += cls(chunk.size, mean, float(chunk @ chunk), max_abs)
        return stats

    def __add__(self, other: TensorStats) -> TensorStats:
        """The statistics of both parts together.

        Source: Chan, Golub, LeVeque, "Updating Formulae ... for Computing Sample Variances" (1979).

        >>> import numpy as np
        >>> a, b = np.arange(5.0), np.arange(3.0) ** 2
        >>> whole, parts = TensorStats.of(np.concatenate([a, b])), TensorStats.of(a) + TensorStats.of(b)
        >>> bool(np.isclose(whole.std, parts.std)) and whole.max_abs == parts.max_abs
        True
        """
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        squares = self.squares + other.squares + apart**2 * self.count * other.count / count
        return TensorStats(count, mean, squares, _larger(self.max_abs, other.max_abs))

    def has_elements_of(self, other: TensorStats) -> bool:
        """Whether both may be of the same elements, in two orders: sums differ by rounding."""
        close = math.isclose(self.squares, other.squares, rel_tol=1e-9)
        return close and (self.count, self.max_abs) == (other.count, other.max_abs)

    @property
    def std(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @property
    def norm(self) -> float:
        """The square root of the sum of squares: sum x^2 = sum (x - mean)^2 + count mean^2."""
        return math.sqrt(self.squares + self.count * self.mean**2)


def _larger(a: float, b: float) -> float:
    """max(a, b), but NaN if one is NaN, which Python's max may miss."""
    return a + b if math.isnan(a + b) else max(a, b)
