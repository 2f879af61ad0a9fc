"""Finite differences against hand-written gradients.

A gradient says how the loss changes when one number changes a little. That can simply be tried, for
every number. The loss a little above and a little below the number tells its slope. With a step of
6e-5 the error is about 1e-9 where the numbers are of order 1, so that a gradient that is wrong in
its seventh digit shows. Where these two points leave a doubt, the formula of five points measures
again, with h = 1e-3 and an error of about 1e-13 (measurement.py).

A layer's output is no single number, so it is summed with fixed random weights:
f(x) = sum(weights * forward(x)). Then the gradient that arrives from above is those weights, and a
mistake in any output shows.

The error of an element is |a - n| / max(|a|, |n|, 1e-3 max |n'|), where a is the hand-written
gradient, n the finite difference, and n' runs over the tensor. The last term only matters for
elements more than 1,000 times smaller than the tensor's largest: there, n has lost three digits to
rounding, and an error is measured on the scale of the tensor.

No single step suits all numbers: 1e-3 is too large beside a weight of 0.02. So an element that does
not agree still, and one for which this formula, too, may be off, is measured with steps of every
size (verdicts.py). What comes out is one of three:

    passed                 they agree as far as it has to be known
    wrong                  they differ by more than the measurement may be off
    cannot be told here    a jump, rounding: there is no derivative, or none that could be measured.
                           This is no pass.

At a kink there are two slopes: a gradient that is one of them, or between them, passes, and a note
says where. The other numbers of the tensor are judged as ever.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks import complex_step
from minillm.checks.differences import by_five_points, five_points
from minillm.checks.intermediates import first_wrong
from minillm.checks.measurement import Measurement, Row, of_element
from minillm.checks.subjects import ContractError, GradientError, subject_of
from minillm.checks.verdicts import PASSED, TOLERANCE, UNTOLD, WRONG
from minillm.layers.layer import same_layers

__all__ = ["CannotTell", "ContractError", "GradientError", "Report", "Row", "finite_differences", "gradcheck"]

STEP = 1e-3
METHODS = ("differences", "complex")
MOST_KINKS = 3  # of a tensor that notes name


@dataclass(frozen=True, repr=False)
class Report:
    """The result of a check. Printed, it is a line with the verdict and a line for each tensor.

    name: what was checked.
    rows: a Row for every tensor, inputs first; the last `parameters` of them are parameters.
    step: the step h of the finite differences, or of the complex step.
    notes: what finite differences alone would not show, such as a plain array among the attributes
    of a layer, which is not trained, or a backward that writes over dy.
    """

    name: str
    rows: tuple[Row, ...]
    step: float
    notes: tuple[str, ...] = ()
    parameters: int = 0

    @property
    def worst(self) -> Row:
        """The row that decides: a wrong one before one that cannot be told, and of these the one
        with the largest error.
        """
        return max(self.rows, key=lambda row: ((PASSED, UNTOLD, WRONG).index(row.verdict), row.error))

    @property
    def verdict(self) -> str:
        """The verdict, "passed", "wrong" or "cannot be told here": the worst of all rows."""
        return self.worst.verdict

    def __str__(self) -> str:
        inputs, worst = len(self.rows) - self.parameters, self.worst
        counts = f"{_counted(inputs, 'input')}, {_counted(self.parameters, 'parameter')}"
        end = f"largest relative error {worst.error:.1e} in {worst.tensor}" if worst.verdict == PASSED else worst.tensor
        lines = [f"{self.name}, step {self.step:g}: {counts}: {self.verdict}, {end}"]
        for row in self.rows:
            line = f"{row.tensor:<40} {str(row.shape):<14} {row.error:.1e} at {row.where}"
            lines.append(line if row.verdict == PASSED else f"{line} {row.verdict}{row.reason and ': ' + row.reason}")
        return "\n".join((*lines, *(f"note: {note}" for note in self.notes)))

    __repr__ = __str__


class CannotTell(GradientError):
    """Some gradient cannot be compared at these inputs, and none is wrong.

    The message has the reason. `report` has all rows.
    """


def gradcheck(
    subject,
    *inputs,
    rng_key=None,
    tolerance: float | None = None,
    step: float = STEP,
    name: str = "",
    method: str = "differences",
    progress: Callable[[int, int, str], None] | bool | None = None,
    input_names: Sequence[str] = (),
    intermediates: bool = True,
) -> Report:
    """Check every hand-written gradient of a layer, a model or a pair of functions.

    Each is compared with finite differences, number by number, in float64.

    >>> import minillm, numpy as np
    >>> forward, backward = lambda x: (x**3, x), lambda dy, x: 3 * x**2 * dy
    >>> minillm.gradcheck((forward, backward), np.array([1.0, 2.0])).verdict
    'passed'

    Arguments

    subject      What is checked, in float64:
                 a layer, a minillm.Layer: its parameters and its float inputs;
                 a model, with the inputs ids and targets: its parameters, through `loss`;
                 a pair (forward, backward) with forward(*inputs) -> y, saved and
                 backward(dy, saved) -> the gradients of the float inputs, in their order.
                 A forward may return a tuple of outputs. Backward then gets their gradients as a
                 tuple, or stacked in one array where the outputs have one shape.
    inputs       What forward takes. Float arrays are checked. Integers, and what is no array, are
                 held. Each call gets copies.
    rng_key      Passed to forward, for dropout, such as (0, "check").
    tolerance    The largest relative error that passes: 1e-6 by default, 1e-11 for the complex step.
    step         The step h of the finite differences by five points; that of two points is h / 16.
    name         What the report calls the subject.
    method       "differences", or "complex": the complex step (complex_step.py), which has no
                 rounding but that of forward itself. Where forward does not take complex numbers,
                 finite differences take over for that tensor, and a note says why.
    progress     Called with (numbers done, numbers in all, tensor) for each number that is tried.
                 By default a check that takes longer than some seconds shows on the terminal how
                 far it is; with False it does not.
    input_names  What the report calls the inputs: "input 0", "input 1", ... by default.
    intermediates  Whether the message of a wrong gradient names the first wrong intermediate of
                 backward, where it can be known (intermediates.py).

    Returns a Report, which has passed: print it to see the largest error of each tensor.

    Raises

    GradientError  A gradient is wrong: it differs from what was measured by more than `tolerance`,
                   or is no number. The message names the worst element; `report` has all rows.
    CannotTell     None is wrong, and one could not be compared: at a jump, where rounding hides it,
                   or in a tensor of nothing but kinks. A GradientError. Try another x.
    ContractError  Forward or backward returns something else than a layer does, such as a gradient
                   of another shape. A GradientError.
    TypeError      An array is not float64, or `subject` is none of the three.
    ValueError     Another `method`.
    UserError      There is nothing to check, or a parameter is read-only.

    How it is measured: `help("minillm.checks.gradcheck")`.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: use {' or '.join(METHODS)}")
    checked = subject_of(subject, inputs, rng_key, name, input_names)
    with checked.in_training(), np.errstate(all="ignore"):
        weights, gradients = checked.examine(lambda outputs: weights_of(checked.name, outputs))
        measurement = Measurement(checked, weights, tolerance or TOLERANCE, step, _telling(progress, checked.name))
        row = measurement.row
        if method == "complex":
            tolerance, step = tolerance or complex_step.TOLERANCE, complex_step.STEP
            row = partial(measurement.row_by_complex_step, tolerance)
        with same_layers():
            rows = tuple(row(tensor, array, gradients[tensor]) for tensor, array in checked.tensors.items())
        measurement.check_that_nothing_drifted()
        wrong = intermediates and any(row.verdict == WRONG for row in rows)
        right = frozenset(row.tensor for row in rows if row.verdict == PASSED)
        hint = first_wrong(checked, weights, right) if wrong else ""
    notes = (*checked.notes, *(note for row in rows for note in _of_kinks(row)))
    report = Report(checked.name, rows, step, notes, len(checked.parameters))
    if report.verdict == WRONG:
        raise GradientError(_why_wrong(report, tolerance or TOLERANCE) + (hint and f"\n  {hint}"), report)
    if report.verdict == UNTOLD:
        raise CannotTell(_why_untold(report), report)
    return report


def finite_differences(loss: Callable[[], float], array: np.ndarray, step: float = STEP) -> np.ndarray:
    """The gradient of `loss` with respect to `array`, which it reads and which is changed element
    by element and restored.

    The array may lie in memory in any way, but has to be writable.
    """
    values = [five_points(of_element(loss, array, index), step) for index in range(array.size)]
    return by_five_points(np.array(values).reshape(-1, 4), step).reshape(array.shape)


def _of_kinks(row: Row) -> list[str]:
    """Notes of the kinks in a tensor; of many the first ones."""
    more = len(row.kinks) - MOST_KINKS
    return [*row.kinks[:MOST_KINKS], *([f"{more} more kinks in {row.tensor}"] if more > 0 else [])]


def weights_of(name: str, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """The gradients that arrive from above: random, and 1 for a loss.

    Raises CannotTell where an output is no number.
    """
    for index, output in enumerate(outputs):
        if not np.isfinite(output).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(output))[0])
            what = f"output {index}" if len(outputs) > 1 else "the output"
            raise CannotTell(
                f"{name}: cannot be told here: forward gives {output[where]} in {what} at {where}, and no difference of "
                "that can be taken: try another x"
            )
    if len(outputs) == 1 and outputs[0].ndim == 0:
        return [np.ones(())]
    numbers = stream("gradcheck", name)
    return [np.asarray(numbers.normal(output.shape)) for output in outputs]


# ------------------------------------------------------------------------------------------------------- what a user reads


def _why_wrong(report: Report, tolerance: float) -> str:
    row = report.worst
    kink = f", where forward has {row.reason}" if row.reason else ""
    start = f"{report.name}: the gradient of {row.tensor} {row.shape} is wrong at {row.where}: backward gives"
    error = f"relative error {row.error:.2e} (tolerance {tolerance:g})"
    if report.step == complex_step.STEP and np.isnan(row.uncertainty):
        return f"{start} {row.analytic:.16g}, the complex step gives {row.numeric:.16g}: {error}"
    step = STEP if report.step == complex_step.STEP else report.step
    by_step = f"finite differences with step {step:g} give {row.by_step:.10g}"
    if not np.isfinite(row.analytic):
        return f"{start} {row.analytic:g}, {by_step}"
    if kink:
        return f"{start} {row.analytic:.10g}{kink}: a gradient has to be one of them or between them; {error}"
    exactly = f"and {row.numeric:.10g} (known to {row.uncertainty:.0e}) with steps that become 0"
    return f"{start} {row.analytic:.10g}, {by_step}, {exactly}: {error}"


def _why_untold(report: Report) -> str:
    row = report.worst
    return (
        f"{report.name}: whether the gradient of {row.tensor} {row.shape} is right cannot be told here, at {row.where}: "
        f"{row.reason}. Backward gives {row.analytic:.10g}. This is no pass: try another x, or other parameters"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _telling(progress, name: str) -> Callable[[int, int, str], None]:
    """The function that shows how far the check is."""
    if callable(progress):
        return progress
    if progress is False or (progress is None and not (sys.stderr and sys.stderr.isatty())):
        return lambda done, total, tensor: None
    return _TerminalLine(name)


class _TerminalLine:
    """A line on standard error that is written again and again, once the check has taken QUIET
    seconds.
    """

    QUIET, EVERY = 3.0, 0.2

    def __init__(self, name: str):
        self._name, self._began = name, time.monotonic()
        self._next, self._width = self._began + self.QUIET, 0

    def __call__(self, done: int, total: int, tensor: str) -> None:
        now = time.monotonic()
        if now < self._next and not (done == total and self._width):
            return
        self._next = now + self.EVERY
        line = f"gradcheck of {self._name}: {done:,} of {total:,} numbers, {now - self._began:.0f} s, {tensor}"[:79]
        if done == total:
            line = ""
        sys.stderr.write("\r" + line.ljust(self._width) + ("\r" if done == total else ""))
        sys.stderr.flush()
        self._width = len(line)
