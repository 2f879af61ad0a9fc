"""The first wrong variable of a reader's function is named, with its line."""

import sys

import numpy as np
import pytest

from minillm.kernels.exercises.steps import WrongStep, check_steps, steps


def gradient(dy, x):
    dn = dy * x
    total = dn.sum()
    dn -= 1
    dx = dn / total
    return dx


FIRST = gradient.__code__.co_firstlineno
DY, X = np.array([1.0, 2.0]), np.array([3.0, 4.0])
RIGHT = {"dn": DY * X, "total": 11.0, "dx": (DY * X - 1) / 11}


def test_a_right_function_passes():
    check_steps(gradient, (DY, X), RIGHT)


@pytest.mark.parametrize(
    "wrong, line, text",
    [
        ({"dx": RIGHT["dx"] + [0, 1]}, 4, r"dx\[1\] is 0.6363636, expected 1.636364"),
        ({"total": 12.0, "dx": np.zeros(2)}, 2, "total is 11, expected 12"),
        ({"dn": np.zeros(2)}, 3, r"dn\[0\] is 2, expected 0 \(the first of 2 wrong elements of 2\)"),
        ({"dx": np.zeros(3)}, 4, r"dx has the shape \(2,\), expected \(3,\)"),
    ],
)
def test_the_first_wrong_variable_is_named_with_its_line(wrong, line, text):
    with pytest.raises(WrongStep, match=text) as caught:
        check_steps(gradient, (DY, X), RIGHT | wrong)
    assert caught.value.line == FIRST + line


def test_a_variable_that_is_written_over_was_right_once():
    found = {step.name: step for step in steps(gradient, (DY, X))}
    assert [value.tolist() for value in found["dn"].values] == [[3, 8], [2, 7]]
    assert found["dn"].line == FIRST + 3


def test_other_names_are_not_looked_at_and_the_tracer_comes_back():
    before = sys.gettrace()
    check_steps(gradient, (DY, X), {"dz": np.zeros(2)})
    with pytest.raises(ZeroDivisionError):
        check_steps(lambda x: x / 0, (1,), {})
    assert sys.gettrace() is before
