"""Residual with the bias of the branch: gradients, formula, every implementation, and the faults that these tests notice."""

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

from minillm.checks.cases import RESIDUAL_BIAS, array
from minillm.layers.residual_bias import residual_bias_forward

FAULTS = {
    "the branch counts twice": ("return dy, dy, dbias", "return dy, 2 * dy, dbias"),
    "no direct path": ("return dy, dy, dbias", "return 0 * dy, dy, dbias"),
    "dbias is half of what it should be": ("bias_backward(dy, None)", "bias_backward(dy, None) / 2"),
}

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "the bias is left out": ("added[i] + b[i]", "added[i]", "numbers"),
    "no bound on the column": ("if (own_column<N>() >= width) return;\n    float b[N], sum", "float b[N], sum", "check"),
    "rows are counted by blocks alone": ("(long long)blockIdx.x * DEEP + threadIdx.y", "(long long)blockIdx.x", "check"),
}  # fmt: skip


@pytest.mark.parametrize("problem", RESIDUAL_BIAS.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(RESIDUAL_BIAS, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(RESIDUAL_BIAS, *FAULTS[fault])


def test_forward_is_the_formula():
    x, branch, bias = array("x", 2, 3), array("branch", 2, 3), array("bias", 3)
    assert_close(residual_bias_forward(x, branch)[0], x + branch)
    assert_close(residual_bias_forward(x, branch, bias)[0], x + branch + bias)


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(RESIDUAL_BIAS)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(RESIDUAL_BIAS)


@pytest.mark.parametrize("problem", RESIDUAL_BIAS.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(RESIDUAL_BIAS, problem, device)


@pytest.mark.parametrize("problem", RESIDUAL_BIAS.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(RESIDUAL_BIAS, problem, device)


@pytest.mark.parametrize("problem", RESIDUAL_BIAS.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(RESIDUAL_BIAS, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(RESIDUAL_BIAS, KERNEL_FAULTS[fault], monkeypatch)
