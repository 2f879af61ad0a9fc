"""Rotating the pairs of rotary embedding more slowly, so that a model reads longer texts than it
was trained on.

Three kinds are computed; each makes theta_i' (D/2,) of theta_i (rotary.py):

    Llama3Scaling   slow pairs alone                    theta_i' by rotary.py's formula
    LinearScaling   every pair by the same factor       theta_i' = theta_i / factor
    TableScaling    every pair by a factor of its own   theta_i' = theta_i / factor_i

Sources: of the second Chen et al., "Extending Context Window of Large Language Models via
Positional Interpolation" (2023); of the third llama.cpp's tensor rope_freqs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from minillm.errors import UserError
from minillm.layers.rotary import Llama3Scaling

USUAL_BANDS = dict(low_freq_factor=1.0, high_freq_factor=4.0)  # of every published Llama 3
SAME = 1e-5  # relative: factors in files are float32


@dataclass(frozen=True)
class LinearScaling:
    """Every position counts for 1 / factor of one.

    Raises UserError unless factor is a finite number above 0.
    """

    factor: float

    def __post_init__(self):
        _check_factors((self.factor,), "factor")

    def stretched(self, theta):
        """theta_i (D/2,)  ->  theta_i' (D/2,)"""
        return theta / self.factor


@dataclass(frozen=True)
class TableScaling:
    """A factor for each pair of a head. Raises UserError unless they are finite numbers above 0."""

    factors: tuple[float, ...]

    def __post_init__(self):
        if not isinstance(self.factors, (list, tuple)) or not self.factors:
            raise UserError(f"rope_scaling: factors are {self.factors!r:.99}, expected a list of numbers")
        object.__setattr__(self, "factors", tuple(self.factors))
        _check_factors(self.factors, "factors")

    def stretched(self, theta):
        """theta_i (D/2,)  ->  theta_i' (D/2,). Raises UserError for another number of pairs."""
        if len(theta) != len(self.factors):
            raise UserError(f"rope_scaling has {len(self.factors)} factors, a head has {len(theta)} pairs")
        return theta / np.array(self.factors)


Scaling = Llama3Scaling | LinearScaling | TableScaling


def scaling_from_fields(fields: dict) -> Scaling:
    """The scaling that has these fields. Raises UserError for values that cannot be."""
    if "factors" in fields:
        return TableScaling(**fields)
    return LinearScaling(**fields) if set(fields) == {"factor"} else Llama3Scaling(**fields)


def scaling_of_table(factors, theta) -> Scaling | None:
    """The scaling that divides theta (D/2,) by factors (D/2,), by its own name if it has one; None
    if nothing changes.

    Converters to GGUF compute the table of a Llama 3 from four numbers. Those are found again, so
    that what is saved says "llama3", and angles far from the start have all their digits.
    """
    factors = np.asarray(factors, np.float64)
    if np.allclose(factors, 1, SAME, 0):
        return None
    if np.allclose(factors, factors[0], SAME, 0):
        return LinearScaling(_decimal(factors[0]))
    return _llama3_of(factors, theta) or TableScaling(tuple(map(_decimal, factors)))


def _llama3_of(factors, theta) -> Llama3Scaling | None:
    """Between both bands turns = low + s (high - low), and turns = original theta_i / (2 pi): this
    tells the original."""
    largest = factors.max()
    if factors.min() < 1 - SAME or largest <= 1:
        return None
    s = (1 / factors - 1 / largest) / (1 - 1 / largest)
    between = (s > 1e-3) & (s < 1 - 1e-3)
    if not between.any():
        return None
    low, high = USUAL_BANDS.values()
    original = np.median((low + s[between] * (high - low)) * 2 * np.pi / theta[between])
    if not 1 <= round(original) < sys.maxsize:
        return None
    found = Llama3Scaling(_decimal(largest), low, high, round(original))
    return found if np.allclose(theta / found.stretched(theta), factors, SAME, 0) else None


def _decimal(value) -> float:
    """The decimal number that was meant by a float32."""
    return float(str(np.float32(value)))


def _check_factors(factors, name: str) -> None:
    wrong = [
        f for f in factors if isinstance(f, bool) or not isinstance(f, (int, float)) or not 0 < f <= sys.float_info.max
    ]
    if wrong:
        raise UserError(f"rope_scaling: {name} is {wrong[0]!r:.99}, expected a finite number above 0")
