"""Residual: gradients, formula, and the faults that these tests notice."""

import pytest
from kernel_testing import assert_numpy_agrees_in_float32
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import RESIDUAL, array
from minillm.layers.residual import residual_forward

FAULTS = {
    "the branch counts twice": ("return dy, dy", "return dy, 2 * dy"),
    "no direct path": ("return dy, dy", "return 0 * dy, dy"),
}


@pytest.mark.parametrize("problem", RESIDUAL.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(RESIDUAL, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(RESIDUAL, *FAULTS[fault])


def test_forward_is_the_formula():
    x, branch = array("x", 2, 3), array("branch", 2, 3)
    assert_close(residual_forward(x, branch)[0], x + branch)


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(RESIDUAL)
