"""The first step of a function that is wrong: its local variables, compared by their names.

A reader's function is run, and what each of its variables holds after each line is compared with
what a variable of this name has to hold. Of those that never hold it, the one that was assigned
first names the line. Variables of other names are not looked at: the result is what is judged, and
this only says where to look.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-9  # in float64, relative to the largest number of an array


class WrongStep(AssertionError):
    """line: of the reader's file, that of the statement after which a variable is wrong."""

    def __init__(self, message: str, line: int):
        super().__init__(message)
        self.line = line


class Step(NamedTuple):
    """A variable of a function: all that it held, the last value last, and the line of that.

    An argument that is changed counts from then on.
    """

    name: str
    values: list[np.ndarray]
    line: int


def check_steps(function: Callable, arguments: tuple, expected: dict[str, np.ndarray], at: str = "") -> None:
    """Raises WrongStep for the first variable of `function(*arguments)` that is never as expected.

    expected: what variables of these names have to hold. at: what the message says of the inputs,
    such as " at step 2".
    """
    for step in steps(function, arguments):
        if step.name in expected:
            wrong = [_difference(value, np.asarray(expected[step.name])) for value in step.values]
            if all(wrong):
                raise WrongStep(f"{step.name}{wrong[-1]}{at}", step.line)


def steps(function: Callable, arguments: tuple) -> list[Step]:
    """The arrays and numbers among the variables of a call, in the order in which they got their
    last value.

    >>> def twice(x):
    ...     y = x + x
    ...     return y
    >>> [step.name for step in steps(twice, (np.ones(2),))]
    ['x', 'y']
    """
    found: dict[str, Step] = {}
    line = 0

    def look(frame, event, argument):
        nonlocal line
        for name, value in frame.f_locals.items():
            is_number = isinstance(value, (np.ndarray, np.generic, float))
            if (
                not is_number
                or np.asarray(value).dtype.kind not in "iuf"
                or (name in found and np.array_equal(found[name].values[-1], value, equal_nan=True))
            ):
                continue
            known = found.pop(name, None)
            before = known.values if known and known.line else []
            found[name] = Step(name, [*before, np.copy(value)], line)
        line = frame.f_lineno
        return look

    def enter(frame, event, argument):
        return look if frame.f_code is function.__code__ else None

    tracer = sys.gettrace()
    sys.settrace(enter)
    try:
        function(*arguments)
    finally:
        sys.settrace(tracer)
    return list(found.values())


def _difference(value: np.ndarray, right: np.ndarray) -> str:
    """What is wrong with a value; "" if nothing is."""
    if value.shape != right.shape:
        return f" has the shape {value.shape}, expected {right.shape}"
    error = np.abs(value - right)
    wrong = ~(error <= TOLERANCE * max(np.abs(right).max(initial=0.0), 1e-300))
    if not wrong.any():
        return ""
    index = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    place = f"[{', '.join(map(str, index))}]" if index else ""
    others = f" (the first of {wrong.sum():,} wrong elements of {wrong.size:,})" if wrong.sum() > 1 else ""
    return f"{place} is {value[index]:.7g}, expected {right[index]:.7g}{others}"
