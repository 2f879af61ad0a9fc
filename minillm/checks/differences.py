"""The derivative of a function of one number, measured: four ways, from fast to thorough.

    two points       one step for all, two evaluations: enough for most numbers
    five points      one step for all, four evaluations: enough where f bends
    extrapolated     steps from the number's own size down, extrapolated to a step of 0, with an uncertainty
    Slope            every step from far too large to far too small, each side alone: tells kinks, jumps and noise

*Two points*:

    f'(0) ~ (f(h) - f(-h)) / (2 h)

The error is h^2 f''' / 6. Rounding of f by r leaves r / h.

*Five points* (Abramowitz, Stegun, "Handbook of Mathematical Functions", 25.3.6):

    f'(0) ~ (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / (12 h)

The two larger steps cancel the error of order h^2, which leaves h^4 f^(5) / 30. Rounding of f by r
leaves 1.5 r / h.

*Extrapolated* (Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering
Software 4, 1982). The error of five points is a series in h^4, h^6, ...: two measurements, with h
and h/2, together lose the first term, three of them the second. The result is the entry of this
triangle that differs least from those it was made of.

*Slope*. As the step shrinks, measurements first differ because f bends, then agree to within
rounding, which grows as 1 / h. Walking from the smallest step up, all that agree are taken, and the
largest of these steps is the most exact one. This makes no assumption on the size at which f bends,
and costs about a hundred evaluations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property

import numpy as np

EPSILON = sys.float_info.epsilon
ROUNDING = 4 * EPSILON  # of a loss, relative to its magnitude
HALVINGS = 12  # of the step of an extrapolation
FAR, NEAR = 6, 40  # a Slope's steps: from 2^6 times the size of the number to 2^-40 of it
MOST_LEVELS = 120
ENOUGH = 4  # steps whose measurements have to agree
OUTSIDE = (ArithmeticError, AssertionError, ValueError)  # what functions raise for numbers that they do not take
TWO_POINTS, FIVE_POINTS = np.array([1.0, -1.0]), np.array([1.0, -1.0, 2.0, -2.0])  # where f is evaluated, in steps
Function = Callable[[float], float]


def by_two_points(values: np.ndarray, step: float) -> np.ndarray:
    """The derivative from f at step and -step, (..., 2) -> (...)"""
    return (values[..., 0] - values[..., 1]) / (2 * step)


def five_points(f: Function, step: float) -> np.ndarray:
    """f at step, -step, 2 step and -2 step: (4,)"""
    return np.array([f(t) for t in step * FIVE_POINTS])


def by_five_points(values: np.ndarray, step: float) -> np.ndarray:
    """The derivative from what `five_points` returns, (..., 4) -> (...)"""
    values = np.moveaxis(values, -1, 0)
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)


def extrapolated(f: Function, size: float, rounding: float) -> tuple[float, float]:
    """(f'(0), how far off it may be): the first step is `size`.

    rounding: of f, absolute. (NaN, inf) where f has no values.

    When rounding alone is larger than the best uncertainty found, it is time to stop.
    """
    best, above = (np.inf, np.nan), []
    for halvings in range(HALVINGS):
        step = 0.5**halvings * size
        row = [float(by_five_points(five_points(f, step), step))]
        if not np.isfinite(row[0]):  # the step leads out of where f is defined
            above = []
            continue
        for column, coarser in enumerate(above):
            factor = 2.0 ** (4 + 2 * column)
            row.append((factor * row[-1] - coarser) / (factor - 1))
            apart = max(abs(row[-1] - row[-2]), abs(row[-1] - coarser))
            best = min(best, (apart + rounding / step, row[-1]))
        if rounding / step > best[0]:
            break
        above = row
    return best[1], best[0]


def guarded(f: Function) -> Function:
    """f, with NaN for its value where it raises because the number lies outside of where it is
    defined; and no warnings.
    """

    def inside(t: float) -> float:
        with np.errstate(all="ignore"):
            try:
                return f(t)
            except OUTSIDE:
                return np.nan

    return inside


def power_of_two(size: float) -> float:
    """The power of two next to `size`; 1 for 0.

    A number plus such a step, minus the number, is the step exactly.
    """
    return float(2.0 ** np.round(np.log2(size))) if 0 < size < np.inf else 1.0


class Slope:
    """The derivatives of f at 0 from the left, from the right and from both sides.

    size: of the numbers that f's argument is added to; own: of this one number. magnitude: that of
    f, whose rounding is relative to it. `central`, `left` and `right` are (value, how far off it
    may be, how many steps agreed).
    """

    def __init__(self, f: Function, size: float, own: float, magnitude: float):
        far = power_of_two(max(size, own)) * 2.0**FAR
        near = power_of_two(min(size, own or size)) * 2.0**-NEAR
        levels = min(MOST_LEVELS, int(np.log2(far / near)) + 1)
        self.steps = far * 2.0 ** -np.arange(levels)  # from the largest
        self._f, self._size = f, size
        self._at = f(0.0)
        self._above, self._below = (np.array([f(side * step) for step in self.steps]) for side in (1, -1))
        self.rounding = max(ROUNDING * magnitude, 4 * self._noise())

    @cached_property
    def central(self) -> tuple[float, float, int]:
        above, below = self._above, self._below
        h = self.steps[1:]
        with np.errstate(all="ignore"):
            values = (8 * (above[1:] - below[1:]) - (above[:-1] - below[:-1])) / (12 * h)
        return _agreed(values, 1.5 * self.rounding / h)

    @cached_property
    def right(self) -> tuple[float, float, int]:
        return self._one_sided(self._above, 1)

    @cached_property
    def left(self) -> tuple[float, float, int]:
        return self._one_sided(self._below, -1)

    @property
    def jumps(self) -> bool:
        """Whether f has another value at 0 than just beside it."""
        for side in (self._above, self._below):
            nearest, farther = abs(side[-1] - self._at), abs(side[-8] - self._at)
            if nearest > 100 * self.rounding and nearest > farther / 2:
                return True
        return False

    @property
    def is_kink(self) -> bool:
        """Whether the two sides have different derivatives."""
        (right, right_off, _), (left, left_off, _) = self.right, self.left
        return abs(right - left) > 2 * (right_off + left_off) + 1e-6 * max(abs(right), abs(left))

    @property
    def best(self) -> tuple[float, float]:
        """(the derivative, how far off it may be): from both sides at once, or of the sides,
        whichever is the more exact.
        """
        (right, right_off, on_right), (left, left_off, on_left) = self.right, self.left
        of_sides = ((left + right) / 2, (left_off + right_off + abs(left - right)) / 2, min(on_right, on_left))
        return min(self.central, of_sides, key=lambda measured: (measured[2] < ENOUGH, measured[1]))[:2]

    @property
    def settles(self) -> bool:
        """Whether the measurements come to an end as the step shrinks, before rounding
        hides them.
        """
        value, off = self.best
        if max(self.central[2], min(self.left[2], self.right[2])) < ENOUGH:
            return False
        return off <= 0.01 * abs(value) or off * self._size <= 1e4 * self.rounding

    @property
    def is_inside(self) -> bool:
        """Whether f has values on both sides."""
        return np.isfinite(self._above[-1]) and np.isfinite(self._below[-1])

    def _one_sided(self, values, sign):
        h = self.steps[1:]
        with np.errstate(all="ignore"):
            slopes = sign * (-3 * self._at + 4 * values[1:] - values[:-1]) / (2 * h)
        return _agreed(slopes, 4 * self.rounding / h)

    def _noise(self) -> float:
        """How much f scatters: the fourth difference of neighbours, in which everything smooth
        cancels.

        (More, Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33, 2011: for
        independent errors of deviation s it has the deviation sqrt(70) s.) What is smooth falls by
        16^4 for neighbours 16 times as close, and noise does not. The smaller one of the two sides:
        a kink on one of them is no noise.
        """
        return min(self._scatter(1), self._scatter(-1))

    def _scatter(self, side: int) -> float:
        step, before = power_of_two(self._size) * 2.0**-20, np.inf
        while step >= self.steps[-1]:
            values = [self._f(side * step * k) for k in range(1, 10)]
            scatter = float(np.sqrt(np.mean(np.diff(values, 4) ** 2) / 70)) if np.isfinite(values).all() else np.inf
            if np.isfinite(before) and scatter > before / 1000:
                return before
            before, step = scatter, step / 16
        return before if np.isfinite(before) else 0.0


def _agreed(values: np.ndarray, widths: np.ndarray) -> tuple[float, float, int]:
    """(value, how far off, how many agreed) of values that are each known to a width; the last ones
    have the largest.

    Walks from the last to the first. A run goes on as long as all its intervals value +- width have
    a point in common; the first run of ENOUGH of them is the one that counts, or the longest where
    there is none.
    """
    best, low, high, agreed = (np.nan, np.inf, 0), -np.inf, np.inf, 0
    for value, reach in zip(values[::-1], widths[::-1]):
        if not np.isfinite(value):
            low, high, agreed = -np.inf, np.inf, 0
            continue
        if max(low, value - reach) > min(high, value + reach):
            if best[2] >= ENOUGH:
                break
            low, high, agreed = -np.inf, np.inf, 0
        low, high, agreed = max(low, value - reach), min(high, value + reach), agreed + 1
        if agreed > best[2]:
            best = ((low + high) / 2, 2 * reach, agreed)
    return best
