"""Softmax: gradients, formula, and the faults that these tests notice. Attention's kernels have their own."""

import math

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import SOFTMAX, array
from minillm.layers.softmax import row_max, row_sum, softmax_forward

FAULTS = {
    "the term common to the row is left out": ("return p * (dp - average)", "return p * dp"),
    "not multiplied by p": ("return p * (dp - average)", "return dp - average"),
    "the average is not weighted by p": (
        "average = row_sum(dp * p)", "average = dp.mean(axis=-1, keepdims=True)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", SOFTMAX.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(SOFTMAX, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(SOFTMAX, *FAULTS[fault])


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 5)])
def test_forward_is_the_formula(shape):
    x = array("x", *shape)
    expected = np.empty(shape)
    for position in np.ndindex(*shape):
        expected[position] = math.exp(x[position]) / sum(math.exp(each) for each in x[position[:-1]])
    assert_close(softmax_forward(x)[0], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges(dtype):
    large = softmax_forward(np.array([[1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]], dtype))[0]
    assert_close(large, np.array([[0.5, 0, 0.5], [1 / 3] * 3]), 1e-6)
    assert softmax_forward(np.array([[7.0]], dtype))[0] == 1  # one class
    masked = softmax_forward(np.array([[0.0, -np.inf]], dtype))[0]
    assert masked.tolist() == [[1, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 64), (2, 2, 2, 65)])
def test_rows(shape):
    x = array("x", *shape)
    assert (row_max(x) == x.max(axis=-1, keepdims=True)).all()
    assert_close(row_sum(x), x.sum(axis=-1, keepdims=True))
    assert_close(softmax_forward(x)[0].sum(axis=-1), np.ones(shape[:-1]))


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(SOFTMAX)
