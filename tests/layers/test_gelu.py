"""GELU: gradients, formula, every implementation, and the faults that these tests notice."""

import math

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

from minillm.checks.cases import GELU, array
from minillm.layers import gelu
from minillm.layers.gelu import erf, gelu_forward

FAULTS = {
    "tanh: the gate is left out of the slope": ("slope += gate", "pass"),
    "tanh: the slope is not multiplied by x": ("slope *= x\n    slope += gate", "slope += gate"),
    "tanh: the derivative of the sigmoid without 1 - gate": ("slope *= 1 - gate", "pass"),
    "tanh: the cube without its 3": ("slope *= 3 * A * C * 2", "slope *= A * C * 2"),
    "none: the exponent has the wrong sign": ("slope *= -0.5", "slope *= 0.5"),
    "none: the density is not normalised": ("slope *= 1 / math.sqrt(2 * math.pi)", "pass"),
    "dbias is a mean in place of a sum": (
        "dtype=dx.dtype) @ dx_rows if", "dtype=dx.dtype) @ dx_rows / len(dx_rows) if"),
}  # fmt: skip

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "column_sum: rows counted twice": ("row += ADDENDS", "row += ADDENDS - 1", "numbers"),
    "wrong derivative": ("1 + 3 * A", "1 + A", "numbers"),
    "no bound on the column": ("if (own_column<N>() >= width) return;\n    float b[N], x", "float b[N], x", "check"),
    "all blocks write one row of partial sums": (
        "partials + (long long)blockIdx.x * width + own_column", "partials + own_column", "check"),
}  # fmt: skip


@pytest.mark.parametrize("problem", GELU.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(GELU, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(GELU, *FAULTS[fault])


def test_forward_is_the_formula():
    x = np.linspace(-6, 6, 101)
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    tanh = np.array([0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x])
    assert_close(gelu_forward(x, approximate="none")[0], exact, 1e-14)
    assert_close(gelu_forward(x)[0], tanh, 1e-14)
    assert 1e-4 < np.abs(exact - tanh).max() < 6e-4  # not the same function


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_inputs_neither_warn_nor_become_nan(dtype):
    with np.errstate(all="raise", under="ignore"):
        y, saved = gelu_forward(np.array([-1e6, -300, -30, 0, 30, 300, 1e6], dtype))
        dx, _ = gelu.gelu_backward(np.ones(7, dtype), saved)
    assert y.tolist() == [0, 0, 0, 0, 30, 300, 1e6] and dx.tolist() == [0, 0, 0, 0.5, 1, 1, 1]


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 4e-14), (np.float32, 3e-7)])
def test_erf(dtype, tolerance):
    x = np.concatenate([np.linspace(-8, 8, 4001), [0.0, 1e-300, -1e-30, 1e-8, 30, -1e6]]).astype(dtype)
    expected = np.array([math.erf(float(v)) for v in x])
    assert np.abs(erf(x) - expected).max() <= tolerance
    small = np.array([1e-30, -1e-8], dtype)
    assert np.allclose(erf(small) / small, 2 / math.sqrt(math.pi), rtol=1e-6)


def test_unknown_form():
    with pytest.raises(ValueError, match="approximate is 'relu'"):
        gelu.GELU("relu").forward(array("x", 3))


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(GELU)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(GELU)


@pytest.mark.parametrize("problem", GELU.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(GELU, problem, device)


@pytest.mark.parametrize("problem", GELU.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(GELU, problem, device)


@pytest.mark.parametrize("problem", GELU.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(GELU, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(GELU, KERNEL_FAULTS[fault], monkeypatch)
