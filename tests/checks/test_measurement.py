"""Two points first: what they settle, what they leave to five points, and that both say the same."""

from contextlib import contextmanager

import numpy as np
import pytest

import minillm
from minillm.checks import measurement
from minillm.checks.cases import ATTENTION, CROSS_ENTROPY, GELU, LAYER_NORM, MODELS, check_gradients
from minillm.checks.gradcheck import GradientError
from minillm.checks.measurement import Measurement
from minillm.checks.verdicts import PASSED, TOLERANCE

X = np.linspace(-2, 2, 20).reshape(4, 5)


@contextmanager
def five_points_for_all(monkeypatch):
    """Two points settle nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(measurement, "AGREES", -1.0)
        yield


def measured_by_five_points(monkeypatch, subject, *inputs) -> int:
    """How many numbers two points leave in doubt."""
    left = []
    by_two_points = Measurement._by_two_points

    def counted(self, *arguments):
        slopes, unsettled = by_two_points(self, *arguments)
        left.append(len(unsettled))
        return slopes, unsettled

    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "_by_two_points", counted)
        assert minillm.gradcheck(subject, *inputs).verdict == PASSED
    return sum(left)


@pytest.mark.parametrize("case", [LAYER_NORM, GELU, ATTENTION, CROSS_ENTROPY, MODELS[1]], ids=str)
def test_the_slow_twin_says_the_same(monkeypatch, case):
    problem = tuple(case.gradcheck)[0]
    fast = check_gradients(case, problem)
    with five_points_for_all(monkeypatch):
        slow = check_gradients(case, problem)
    assert [(row.tensor, row.shape) for row in fast.rows] == [(row.tensor, row.shape) for row in slow.rows]
    for one, other in zip(fast.rows, slow.rows):
        assert one.verdict == other.verdict == PASSED
        assert abs(one.error - other.error) <= (measurement.AGREES + measurement.EXACT) * TOLERANCE


def test_a_number_costs_two_evaluations():
    calls = []

    def forward(x):
        calls.append(1)
        return np.exp(x), x

    minillm.gradcheck((forward, lambda dy, x: dy * np.exp(x)), X)
    assert len(calls) == 4 + 2 * X.size  # the contract takes two; one is the middle of all, and one looks for a drift


def test_what_bends_goes_on_to_five_points(monkeypatch):
    """exp(x / s): the smaller s is, the farther two points are off, by (k/s)^2 / 6 for a step k."""
    left = [
        measured_by_five_points(
            monkeypatch, (lambda x, s=s: (np.exp(x / s), x), lambda dy, x, s=s: dy * np.exp(x / s) / s), X * s
        )
        for s in (1.0, 0.1, 0.01)
    ]
    assert left == [0, 0, X.size]


@pytest.mark.parametrize("scale", [0.02, 0.1])
@pytest.mark.parametrize("size, is_wrong", [(0.0, False), (2e-6, True), (-2e-6, True)])
def test_a_second_derivative_of_zero_does_not_mislead(scale, size, is_wrong):
    """At 0 sin(x / s) has no second derivative, by which two points are judged, and a third one."""
    x = np.zeros((2, 3))
    pair = (lambda x: (np.sin(x / scale), x), lambda dy, x: dy * np.cos(x / scale) / scale * (1 + size))
    if is_wrong:
        with pytest.raises(GradientError, match="is wrong at"):
            minillm.gradcheck(pair, x)
    else:
        assert minillm.gradcheck(pair, x).verdict == PASSED


def test_a_kink_whose_mean_slope_backward_gives_is_noted():
    x = X.copy()
    x[1, 2] = 0.0
    (note,) = minillm.gradcheck((lambda x: (np.abs(x), x), lambda dy, x: dy * np.sign(x)), x).notes
    assert note.startswith("kink at input 0[1, 2]: ") and note.endswith("is between them")
