"""The numbers of a check: each is changed a little, and the loss looked at.

Most numbers need two evaluations, some need six, and few the thorough measurement:

    two points      step h/16, for every number: enough where the slope agrees and f is nearly straight
    five points     step h, for a number that two points leave in doubt
    judge           steps of every size (verdicts.py), for a number that five points leave in doubt

How far off the first two may be. Let f bend on the scale s, so that each derivative is 1/s times
the one before. Both formulas show s:

    two points      k = h/16     off by k^2 f''' / 6 = (k/s)^2 / 6 of f'
                                 b = |f(k) + f(-k) - 2 f(0)| / 2k = k |f''| / 2 = (k/s) / 2 of f'
                                 so they are off by 2 b^2 / 3 |f'|
    five points                  off by h^4 f^(5) / 30 = (h/s)^4 / 30 of f'
                                 d = |five points - two of them| = h^2 f''' / 6 = (h/s)^2 / 6 of f'
                                 so they are off by 1.2 d^2 / |f'|

Rounding of f, by EPSILON of the terms that it adds up, adds EPSILON / k and 1.5 EPSILON / h of
these terms. Both formulas are believed where they may be off by no more than EXACT of the
tolerance.

Two points alone could be misled where f'' is small by chance beside f' and f'''. So they have to
agree with backward within AGREES of the tolerance, too. A wrong number would pass then only if its
fault were the truncation error of this very formula, to the seventh digit. Nor is a kink
overlooked: its two slopes differ by 2 b, so that it is in doubt unless they are the same to a
thousandth and backward gives their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from minillm.checks import complex_step
from minillm.checks.differences import EPSILON, FIVE_POINTS, TWO_POINTS, by_five_points, by_two_points, guarded
from minillm.checks.subjects import SAME, ContractError, Subject
from minillm.checks.verdicts import FLOOR, PASSED, UNTOLD, WRONG, judge, largest_of, relative_errors

NEARER = 16  # two points are so many times nearer than the step of five points
AGREES = 0.1  # of the tolerance: by so much two points and backward may differ where no more is measured
EXACT = 0.2  # of the tolerance: what a formula may be off by to be believed
TINY = np.finfo(float).tiny
FAR_OFF = 30  # times what it may be off: a gradient that differs by more needs the thorough measurement


@dataclass(frozen=True)
class Row:
    """One tensor of a report, by its worst element.

    tensor, shape: its name ("input 0", or the path of a parameter) and its shape.
    error: the largest relative error of its gradient, of the element at the index `where`.
    analytic, numeric: the hand-written and the measured gradient of this element.
    verdict: "passed", "wrong" or "cannot be told here"; `reason` says why it cannot be told.
    uncertainty: how far `numeric` may be off, if it was measured again; else NaN.
    by_step: what the first formula measured.
    kinks: a line for each element at a kink whose gradient is one of the two slopes or between
    them.
    """

    tensor: str
    shape: tuple[int, ...]
    error: float
    where: tuple[int, ...]
    analytic: float
    numeric: float
    verdict: str = PASSED
    reason: str = ""
    uncertainty: float = np.nan
    by_step: float = np.nan
    kinks: tuple[str, ...] = ()


class Measurement:
    """Tries all numbers of all tensors.

    `row` says whether a gradient is right; what is measured for it does not depend on the gradient.
    """

    def __init__(self, subject: Subject, weights: list[np.ndarray], tolerance: float, step: float, tell):
        self._subject, self._weights, self._tolerance, self._step, self._tell = subject, weights, tolerance, step, tell
        outputs = subject.forward()
        self._at = self._sum(outputs)
        self._magnitude = float(sum(np.abs(w * y).sum() for w, y in zip(weights, outputs)))
        self._done, self._total = 0, sum(array.size for array in subject.tensors.values())

    def loss(self) -> float:
        return self._sum(self._subject.forward())

    def _sum(self, outputs) -> float:
        return float(sum((w * y).sum() for w, y in zip(self._weights, outputs)))

    def check_that_nothing_drifted(self) -> None:
        if not abs(self.loss() - self._at) <= SAME * self._magnitude:
            raise ContractError(
                f"{self._subject.name}: forward gives different results for the same input: it keeps something "
                "from call to call"
            )

    def row_by_complex_step(self, tolerance: float, tensor: str, array: np.ndarray, gradient: np.ndarray) -> Row:
        """The verdict on a tensor by the complex step; by finite differences where it does not
        hold, which is noted.
        """
        try:
            with self._subject.in_complex_numbers() as tensors:
                numeric = complex_step.complex_gradient(self._complex_loss, tensors[tensor])
            complex_step.check_along(self.loss, array, numeric, self._magnitude)
        except complex_step.NotAnalytic as reason:
            self._subject.notes.append(f"{tensor} by finite differences: {reason}")
            return self.row(tensor, array, gradient)
        self._done += array.size
        self._tell(self._done, self._total, tensor)
        error = relative_errors(gradient, numeric)
        where = np.unravel_index(int(error.argmax()), array.shape) if array.size else ()
        place, worst = tuple(map(int, where)), float(error.max(initial=0.0))
        found = (float(gradient[place]), float(numeric[place])) if array.size else (np.nan, np.nan)
        return Row(tensor, array.shape, worst, place, *found, PASSED if worst <= tolerance else WRONG, by_step=found[1])

    def _complex_loss(self) -> complex:
        return sum((w * y).sum() for w, y in zip(self._weights, self._subject.forward()))

    def row(self, tensor: str, array: np.ndarray, gradient: np.ndarray) -> Row:
        """The verdict on a tensor, with its worst element."""
        if not array.size:
            return Row(tensor, array.shape, 0.0, (), np.nan, np.nan)
        analytic, functions = gradient.reshape(-1), self.functions(tensor, array)
        by_step, unsettled = self._by_two_points(tensor, functions, analytic)
        values = self.values(tensor, functions, unsettled, self._step * FIVE_POINTS)
        by_step[unsettled] = by_five_points(values, self._step)
        numeric, error = by_step.copy(), relative_errors(analytic, by_step)
        doubtful, contradicted = self._doubts(unsettled, values, analytic, by_step, error)
        size, largest = float(np.sqrt(np.mean(np.square(array)))), largest_of(analytic, by_step)
        where, judged, kinks = int(np.argmax(np.where(doubtful, -1.0, error))), None, []
        for index in self.in_order(tensor, np.flatnonzero(doubtful)[np.argsort(-error[doubtful], kind="stable")]):
            found = judge(
                functions[index], float(analytic[index]), largest, size, abs(float(array.flat[index])), self._magnitude,
                self._tolerance, bool(contradicted[index]),
            )  # fmt: skip
            numeric[index], error[index] = found.numeric, found.error
            if found.verdict == PASSED and found.reason:
                place = ", ".join(str(i) for i in np.unravel_index(index, array.shape))
                kinks.append(f"kink at {tensor}[{place}]: {found.reason}")
            if judged is None or _rank(found) > _rank(judged):
                where, judged = int(index), found
            if found.verdict == WRONG:
                break  # one is enough: the others are not measured as exactly
            self._tell(self._done, self._total, tensor)
        if len(kinks) == array.size:
            judged = replace(judged, verdict=UNTOLD, reason=f"every number of it is at a kink: {judged.reason}")
        elif judged is None or judged.verdict == PASSED:
            where, judged = int(error.argmax()), None
        place = tuple(int(i) for i in np.unravel_index(where, array.shape))
        numbers = float(error[where]), place, float(analytic[where]), float(numeric[where])
        verdict = (judged.verdict, judged.reason, judged.uncertainty) if judged else (PASSED, "", np.nan)
        return Row(tensor, array.shape, *numbers, *verdict, float(by_step[where]), tuple(kinks))

    def functions(self, tensor: str, array: np.ndarray) -> list[Callable[[float], float]]:
        """For each number of a tensor: the loss, as a function of what is added to it."""
        return [guarded(of_element(self.loss, array, index)) for index in range(array.size)]

    def values(self, tensor: str, functions: list[Callable[[float], float]], indices, steps) -> np.ndarray:
        """What the functions at these indices are for steps (S,): (indices, S)."""
        return np.array([[functions[index](step) for step in steps] for index in indices]).reshape(-1, len(steps))

    def in_order(self, tensor: str, doubtful: np.ndarray) -> np.ndarray:
        """The indices of the doubtful numbers, in the order in which they are measured again."""
        return doubtful

    def _by_two_points(self, tensor, functions, analytic) -> tuple[np.ndarray, np.ndarray]:
        """(the slopes by two points, the indices of those that need more)"""
        step, values = self._step / NEARER, np.empty((len(functions), 2))
        for index in range(len(functions)):
            values[index] = self.values(tensor, functions, [index], step * TWO_POINTS)
            self._done += 1
            self._tell(self._done, self._total, tensor)
        by_step = by_two_points(values, step)
        scale = _scale(analytic, by_step)
        bend = np.abs(values.sum(axis=1) - 2 * self._at) / (2 * step)
        reach = 2 / 3 * bend * (bend / np.maximum(scale, TINY)) + EPSILON * self._magnitude / step
        agrees = relative_errors(analytic, by_step) <= AGREES * self._tolerance
        is_settled = agrees & (reach <= EXACT * self._tolerance * scale)
        return by_step, np.flatnonzero(~is_settled)

    def _doubts(self, indices, values, analytic, by_step, error) -> tuple[np.ndarray, np.ndarray]:
        """(which numbers of the tensor five points leave in doubt, whether what they say speaks
        against backward or for a kink)

        indices, values: of the numbers that were measured by five points, and what was measured.
        """
        doubtful, contradicted = np.zeros(analytic.shape, bool), np.zeros(analytic.shape, bool)
        scale, agrees = _scale(analytic, by_step)[indices], error[indices] <= self._tolerance
        analytic, by_step = analytic[indices], by_step[indices]
        reach = self._reach(values, by_step, scale)
        is_exact = reach <= EXACT * self._tolerance * scale
        is_exact |= (analytic == 0) & (values == self._at).all(axis=1)
        kinked = self._looks_kinked(values, scale)
        doubtful[indices] = ~(agrees & is_exact) | kinked
        contradicted[indices] = kinked | (np.abs(analytic - by_step) > FAR_OFF * reach)
        return doubtful, contradicted

    def _reach(self, values, by_step, scale) -> np.ndarray:
        """How far off the formula of five points may be: by truncation and by rounding."""
        apart = np.abs(by_step - by_two_points(values[:, :2], self._step))
        return 1.2 * apart * (apart / np.maximum(scale, TINY)) + 1.5 * EPSILON * self._magnitude / self._step

    def _looks_kinked(self, values, scale) -> np.ndarray:
        """Where f(h) + f(-h) - 2 f(0) doubles with h, as beside a kink, and does not grow
        fourfold.
        """
        near = np.abs(values[:, 0] + values[:, 1] - 2 * self._at)
        far = np.abs(values[:, 2] + values[:, 3] - 2 * self._at)
        seen = near > np.maximum(16 * EPSILON * self._magnitude, self._tolerance * self._step * scale)
        return seen & (far < 3 * near)


def _scale(analytic, numeric) -> np.ndarray:
    """What the errors of a tensor's elements are relative to."""
    return np.maximum(np.maximum(abs(analytic), abs(numeric)), FLOOR * largest_of(analytic, numeric))


def of_element(loss: Callable[[], float], array: np.ndarray, index: int) -> Callable[[float], float]:
    """The loss as a function of what is added to one element of an array, which is restored."""
    flat = array.flat  # which writes through, however the array lies in memory

    def f(t: float) -> float:
        value = flat[index]
        flat[index] = value + t
        try:
            return loss()
        finally:
            flat[index] = value

    return f


def _rank(judgement) -> tuple[int, float]:
    return (PASSED, UNTOLD, WRONG).index(judgement.verdict), judgement.error
