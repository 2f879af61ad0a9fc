"""Rotary embedding: gradients, formula, every implementation, and the faults that these tests notice."""

import cmath

import numpy as np
import pytest
from kernel_testing import (
    assert_check_mode_reports_nothing,
    assert_kernel_agrees,
    assert_kernel_agrees_in_bfloat16,
    assert_kernel_fault_is_noticed,
    assert_numpy_agrees_in_bfloat16,
    assert_numpy_agrees_in_float32,
)
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import ROTARY, array
from minillm.layers.rotary import (
    interleaved_to_halves,
    rotary_forward,
    rotary_tables,
)

TABLES = rotary_tables(5, 6, dtype="float64")

FAULTS = {"backward rotates forward": ("(upcast(dy), cos, -sin, interleaved)", "(upcast(dy), cos, sin, interleaved)")}

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {"backward rotates forward": ("sign * sine[pair]", "sine[pair]", "numbers")}


@pytest.mark.parametrize("problem", ROTARY.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(ROTARY, problem)


@pytest.mark.parametrize("problem", ROTARY.gradcheck, ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault, problem):
    assert_gradcheck_catches(ROTARY, *FAULTS[fault], [problem])


@pytest.mark.parametrize("interleaved", [False, True])
def test_forward_is_the_formula(interleaved):
    """Equation 34: a pair, as one complex number, times exp(i t theta)."""
    x = array("x", 1, 1, 5, 6)
    y, _ = rotary_forward(x, *TABLES, interleaved)
    for t in range(5):
        for i in range(3):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 3)
            rotated = complex(x[0, 0, t, a], x[0, 0, t, b]) * cmath.exp(1j * t * 10000.0 ** (-2 * i / 6))
            assert_close([y[0, 0, t, a], y[0, 0, t, b]], [rotated.real, rotated.imag])


@pytest.mark.parametrize("interleaved", [False, True])
def test_products_depend_on_the_distance_only(interleaved):
    q, k = np.tile(array("q", 6), (1, 1, 5, 1)), np.tile(array("k", 6), (1, 1, 5, 1))
    products = rotary_forward(q, *TABLES, interleaved)[0][0, 0] @ rotary_forward(k, *TABLES, interleaved)[0][0, 0].T
    for distance in range(-4, 5):
        diagonal = np.diagonal(products, distance)
        assert_close(diagonal, np.full_like(diagonal, diagonal[0]))


def test_length_is_kept():
    x = array("x", 2, 2, 5, 6)
    assert_close(np.linalg.norm(rotary_forward(x, *TABLES)[0], axis=-1), np.linalg.norm(x, axis=-1))


def halves_to_interleaved(weight, heads):
    """The inverse of `interleaved_to_halves`."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def test_the_order_of_pairs_is_a_matter_of_rows():
    """Projected, rotated, multiplied: with rows moved, halves give the products that interleaved pairs gave."""
    weights = {name: array(name, 12, 4) for name in "qk"}  # 2 heads of width 6
    x = array("x", 1, 5, 4)

    def products(interleaved, weights):
        q, k = ((x @ w.T).reshape(1, 5, 2, 6).transpose(0, 2, 1, 3) for w in weights.values())
        q, k = (rotary_forward(y, *TABLES, interleaved)[0] for y in (q, k))
        return q @ k.transpose(0, 1, 3, 2)

    moved = {name: interleaved_to_halves(weight, 2) for name, weight in weights.items()}
    assert_close(products(False, moved), products(True, weights))
    assert np.abs(products(False, weights) - products(True, weights)).max() > 0.1
    assert (halves_to_interleaved(moved["q"], 2) == weights["q"]).all()
    assert (interleaved_to_halves(np.arange(12), 2) == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]).all()


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(ROTARY)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(ROTARY)


@pytest.mark.parametrize("problem", ROTARY.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(ROTARY, problem, device)


@pytest.mark.parametrize("problem", ROTARY.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(ROTARY, problem, device)


@pytest.mark.parametrize("problem", ROTARY.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(ROTARY, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(ROTARY, KERNEL_FAULTS[fault], monkeypatch)
