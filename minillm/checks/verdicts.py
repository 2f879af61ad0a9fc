"""Whether one number of a hand-written gradient is right, as far as it can be measured.

    passed              the measurement is good enough to tell, and the two agree
    wrong               they differ by more than the measurement may be off
    cannot be told      the measurement is not good enough, or the function has no derivative there

The last is no pass. It has a reason: a jump, the end of where the function is defined, differences
that do not settle, or rounding that hides the number.

At a kink, as that of ReLU at 0, there is no derivative, but there are two slopes. Each of them, and
all between them, are subgradients (Clarke, "Optimization and Nonsmooth Analysis", 1983): gradient
descent may take any of these, and libraries do take different ones. So such a number passes, with a
reason that says at which kink. Outside of the two slopes it is wrong. A tensor of nothing but kinks
has not been checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minillm.checks.differences import EPSILON, ROUNDING, Function, Slope, extrapolated, power_of_two

PASSED, WRONG, UNTOLD = "passed", "wrong", "cannot be told here"
TOLERANCE = 1e-6
FLOOR = 1e-3
# Steps beside the size of the numbers: they lose less to rounding, where the loss is nearly a
# straight line.
LARGER = 32
# Of the loss: a number that changes it by less, when changed by its own size, does not act on it.
NOTHING = 16 * EPSILON


@dataclass(frozen=True)
class Judgement:
    """A verdict, with the reason if there is one to give; the measured derivative, how far off
    that may be, and the relative error of the hand-written one, as far as it is larger than what
    the measurement may be off.
    """

    verdict: str
    numeric: float
    uncertainty: float
    error: float
    reason: str = ""


def relative_errors(analytic: np.ndarray, numeric: np.ndarray) -> np.ndarray:
    """|a - n| / max(|a|, |n|, FLOOR of the tensor's largest); infinite where one of the two is no
    finite number.
    """
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), FLOOR * largest_of(analytic, numeric))
    with np.errstate(all="ignore"):
        error = np.abs(analytic - numeric) / np.where(scale > 0, scale, 1)
    error[~np.isfinite(error)] = np.inf
    return error


def largest_of(analytic: np.ndarray, numeric: np.ndarray) -> float:
    """The largest element of a tensor's gradient, by that account which has the smaller one: a
    single wrong number must not excuse the others.
    """
    return float(min(np.abs(g[np.isfinite(g)]).max(initial=0.0) for g in map(np.asarray, (analytic, numeric))))


def judge(
    f: Function,
    analytic: float,
    largest: float,
    size: float,
    own: float,
    magnitude: float,
    tolerance: float = TOLERANCE,
    is_doubtful: bool = False,
) -> Judgement:
    """Whether `analytic` is f'(0).

    largest: of the tensor's gradient; size: of the tensor's numbers, own: of this one; magnitude:
    of the terms that f adds up; is_doubtful: what is known of f speaks against `analytic` or for a
    kink: only the thorough measurement counts.
    """
    if not np.isfinite(analytic):
        return Judgement(WRONG, np.nan, np.inf, np.inf, f"backward gives {analytic:g}")
    size = power_of_two(size)
    for first_step in () if is_doubtful else (size, LARGER * size):
        case = _Case(analytic, *extrapolated(f, first_step, ROUNDING * magnitude), largest, tolerance)
        if case.agrees or _acts_on_nothing(case, size, magnitude):
            return case.verdict(PASSED)
    slope = Slope(f, size, own, magnitude)
    case = _Case(analytic, *slope.best, largest, tolerance)
    if _is_clear_kink(slope):
        return _at_a_kink(slope, analytic, largest, tolerance)
    if reason := _obstacle(slope):
        return case.verdict(UNTOLD, reason)
    if case.differs:
        return case.verdict(WRONG)
    if case.agrees or case.agrees_as_far_as_told or _acts_on_nothing(case, size, magnitude):
        return case.verdict(PASSED)
    return case.verdict(
        UNTOLD,
        f"rounding hides it: forward tells this derivative to {case.uncertainty:.1e}, {case.limit:.1e} is needed",
    )


@dataclass(frozen=True)
class _Case:
    """A hand-written and a measured derivative, and what they may differ by."""

    analytic: float
    numeric: float
    uncertainty: float
    largest: float
    tolerance: float

    @property
    def apart(self) -> float:
        return abs(self.analytic - self.numeric)

    @property
    def scale(self) -> float:
        return max(abs(self.analytic), abs(self.numeric), FLOOR * self.largest)

    @property
    def limit(self) -> float:
        return self.tolerance * self.scale

    @property
    def agrees(self) -> bool:
        return self.apart <= self.limit and self.uncertainty <= self.limit

    @property
    def differs(self) -> bool:
        return self.apart > self.limit + self.uncertainty

    @property
    def agrees_as_far_as_told(self) -> bool:
        """For a number far smaller than the tensor's largest: an error would be seen on the scale
        of that one.
        """
        return self.apart <= self.limit + self.uncertainty and self.uncertainty <= self.tolerance * self.largest

    def verdict(self, verdict: str, reason: str = "") -> Judgement:
        beyond = self.apart if verdict == WRONG or self.apart <= self.limit else max(0.0, self.apart - self.uncertainty)
        error = beyond / self.scale if self.scale > 0 else 0.0
        return Judgement(verdict, float(self.numeric), float(self.uncertainty), float(error), reason)


def _acts_on_nothing(case: _Case, size: float, magnitude: float) -> bool:
    """Whether both derivatives are nothing but rounding: changed by its own size, the number does
    not change f.
    """
    largest = max(abs(case.analytic), abs(case.numeric), case.uncertainty / 4)
    return largest * size <= NOTHING * magnitude


def _is_clear_kink(slope: Slope) -> bool:
    return slope.is_inside and not slope.jumps and slope.is_kink


def _at_a_kink(slope: Slope, analytic: float, largest: float, tolerance: float) -> Judgement:
    """Passed if the gradient is one of the slopes on the two sides, or between them; else wrong."""
    (left, left_off, _), (right, right_off, _) = slope.left, slope.right
    nearest = min(max(analytic, min(left, right)), max(left, right))
    case = _Case(analytic, nearest, max(left_off, right_off), largest, tolerance)
    kink = f"slope {left + 0.0:.6g} to the left, {right + 0.0:.6g} to the right"
    if case.differs:
        return case.verdict(WRONG, f"a kink: {kink}")
    is_a_side = min(abs(analytic - left), abs(analytic - right)) <= case.limit + case.uncertainty
    where = "one of them" if is_a_side else "between them"
    return Judgement(PASSED, nearest, case.uncertainty, 0.0, f"{kink}; backward's {analytic + 0.0:.6g} is {where}")


def _obstacle(slope: Slope) -> str:
    """Why there is no derivative, or none that could be measured; "" if there is one."""
    if not slope.is_inside:
        return "forward has no value right beside it: this is the edge of where forward is defined"
    if slope.jumps:
        return "forward jumps there"
    if not slope.settles:
        return "the differences do not settle as the step shrinks, as where the slope is infinite"
    return ""
