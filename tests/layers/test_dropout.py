"""Dropout: gradients, formula, every implementation, and the faults that these tests notice."""

import numpy as np
import pytest
from kernel_testing import (
    assert_check_mode_reports_nothing,
    assert_kernel_agrees,
    assert_kernel_agrees_in_bfloat16,
    assert_kernel_fault_is_noticed,
    assert_numpy_agrees_in_bfloat16,
    assert_numpy_agrees_in_float32,
    reference,
)
from planting import assert_gradcheck_catches, assert_gradients

from minillm.checks.agreement import kernel_results
from minillm.checks.cases import DROPOUT, KEY, array, at
from minillm.layers.dropout import Dropout, dropout_backward, dropout_factor, dropout_forward

FAULTS = {
    "the gradient has no mask": ("return downcast(upcast(dy) * factor, dy)", "return dy"),
    "the gradient is not scaled": ("return downcast(upcast(dy) * factor, dy)", "return dy * (factor != 0)"),
}

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "halves of a word swapped": ("index % 2 ? 32 : 0", "index % 2 ? 0 : 32", "numbers"),
    "last block not cut": ("n < count", "n <= count", "check"),
    "the rows before are forgotten": ("start = 8 * block - first;", "start = 8 * block - first / 8 * 8;", "numbers"),
}


@pytest.mark.parametrize("problem", DROPOUT.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(DROPOUT, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(DROPOUT, *FAULTS[fault])


def test_forward_is_the_formula():
    """Zero where the factor of the key is zero, divided by 1 - p elsewhere."""
    x, p = array("x", 6, 7), 0.4
    kept = dropout_factor(x.shape, p, KEY, x) != 0
    assert kept.any() and not kept.all()
    y = dropout_forward(x, p, KEY)[0]
    for position in np.ndindex(*x.shape):
        assert y[position] == pytest.approx(x[position] / (1 - p) if kept[position] else 0, rel=1e-15)


def test_the_key_decides():
    x = array("x", 50, 20)
    assert (dropout_forward(x, 0.5, (1, 2))[0] == dropout_forward(x, 0.5, (1, 2))[0]).all()
    assert (dropout_forward(x, 0.5, (1, 2))[0] != dropout_forward(x, 0.5, (1, 3))[0]).any()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_fraction_and_scale(p):
    y, saved = dropout_forward(np.ones((400, 250)), p, (3,))
    kept = y != 0
    assert np.unique(y[kept]) == pytest.approx(1 / (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / y.size) + 1e-12
    assert (dropout_backward(np.ones_like(y), saved) == y).all()


def test_mask_of_a_part_is_the_part_of_the_mask():
    whole = dropout_factor((7, 3, 5), 0.5, (4,), np.zeros(1))
    for first, last in [(0, 7), (1, 4), (3, 7), (6, 7)]:
        part = dropout_factor((last - first, 3, 5), 0.5, (4,), np.zeros(1), first)
        assert (part == whole[first:last]).all()


def test_layers_of_different_names_drop_differently():
    first, second = Dropout(0.5), Dropout(0.5)
    first.name, second.name = "h.0", "h.1"
    x = array("x", 20, 20)
    assert (first.forward(x, KEY) != second.forward(x, KEY)).any()


def test_evaluation_mode_and_zero_probability_do_nothing():
    x = array("x", 4, 4)
    assert Dropout(0.5).eval().forward(x) is x
    assert Dropout(0.0).forward(x) is x


def test_a_key_is_needed():
    with pytest.raises(ValueError, match=r"needs an rng_key in training mode: pass rng_key=\(seed, step\)"):
        Dropout(0.5).forward(array("x", 4))


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(DROPOUT)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(DROPOUT)


@pytest.mark.parametrize("problem", DROPOUT.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(DROPOUT, problem, device)


def test_the_kernels_mask_is_that_of_the_cpu_bit_for_bit(device):
    problem = at(11, 1001, p=0.37)
    (outputs, _) = kernel_results(DROPOUT, *DROPOUT.kernel, problem, device)
    np.testing.assert_array_equal(outputs["y"] == 0, reference(DROPOUT, problem)[0]["y"] == 0)


@pytest.mark.parametrize("problem", DROPOUT.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(DROPOUT, problem, device)


@pytest.mark.parametrize("problem", DROPOUT.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(DROPOUT, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(DROPOUT, KERNEL_FAULTS[fault], monkeypatch)
