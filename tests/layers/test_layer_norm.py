"""Layer norm: gradients, formula, every implementation, and the faults that these tests notice."""

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

from minillm.checks.cases import LAYER_NORM, array
from minillm.layers.layer_norm import layer_norm_forward

FAULTS = {
    "no path through the mean": ("dx -= (dnormed @ average)[:, None]", "pass"),
    "no path through the variance": ("dx -= xp.multiply(normed, along_normed[:, None], out=product)", "pass"),
    "dx not divided by the standard deviation": ("dx *= rstd[:, None]", "pass"),
    "dweight from dy alone": ("dweight = ones @ product", "dweight = ones @ dy_rows"),
    "dbias from dy times n": ("dbias = ones @ dy_rows", "dbias = ones @ (dy_rows * normed)"),
    "dy not multiplied by the weight": ("dnormed = dy_rows * weight\n", "dnormed = dy_rows.copy()\n"),
    "dweight is a mean in place of a sum": ("dweight = ones @ product", "dweight = ones @ product / N"),
}

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "block_sum: no barrier before scratch is used again": (
        ": Number(0));\n    __syncthreads();", ": Number(0));", "check"),
    "column_sum: no barrier": ("= sum;\n    __syncthreads();", "= sum;", "check"),
    "variance about 0 in place of the mean": (
        "(x[i] - mean) * (x[i] - mean)", "x[i] * x[i]", "numbers"),
    "gradient keeps its component along n": (" - normed[i] * mean_g_normed", "", "numbers"),
    "what lies beyond the row counts for the variance": ("if (column_of<N>(i) < width) squares", "squares", "numbers"),
    "a vector beyond the row is written": (
        "if (column_of<N>(i) < width) store(", "store(", "check"),
}  # fmt: skip


@pytest.mark.parametrize("problem", LAYER_NORM.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(LAYER_NORM, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(LAYER_NORM, *FAULTS[fault])


@pytest.mark.parametrize("shape", [(1, 2), (5, 1), (2, 3, 7)])
def test_forward_is_the_formula(shape):
    x, weight, bias = array("x", *shape), array("w", shape[-1]), array("b", shape[-1])
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
    assert_close(layer_norm_forward(x, weight, bias)[0], expected, 1e-10)


def test_large_mean_does_not_cancel():
    x = array("x", 4, 64) + 1e4
    y, _ = layer_norm_forward(x.astype(np.float32), np.ones(64, np.float32))
    expected = layer_norm_forward(x, np.ones(64))[0]
    assert_close(y, expected, 2e-3)


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(LAYER_NORM)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(LAYER_NORM)


@pytest.mark.parametrize("problem", LAYER_NORM.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(LAYER_NORM, problem, device)


@pytest.mark.parametrize("problem", LAYER_NORM.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(LAYER_NORM, problem, device)


@pytest.mark.parametrize("problem", LAYER_NORM.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(LAYER_NORM, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(LAYER_NORM, KERNEL_FAULTS[fault], monkeypatch)
