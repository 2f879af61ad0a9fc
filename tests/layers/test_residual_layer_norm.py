"""Residual and layer norm in one: gradients, formula, every implementation, and the faults that are noticed."""

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

from minillm.backend.precision import bfloat16
from minillm.checks.cases import RESIDUAL_LAYER_NORM, array
from minillm.layers.layer_norm import layer_norm_forward
from minillm.layers.residual_layer_norm import residual_layer_norm_backward, residual_layer_norm_forward

FAULTS = {
    "the gradient of the sum is dropped": ("dx += upcast(dsum)\n", "pass\n"),
    "delta's bias gets the gradient of the norm's output": ("sum_of_rows(dx) if", "sum_of_rows(upcast(dy)) if"),
    "delta's bias is left out of the sum": ("added = added + delta_bias\n", "pass\n"),
}

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "the stream's gradient is dropped": (" + dsum[i];", ";", "numbers"),
    "delta's bias is left out": ("(d[i] + bias[i])", "d[i]", "numbers"),
    "delta's bias gets what comes through the norm alone": (
        "sums.dx[i] += dx[i];", "sums.dx[i] += dx[i] - dsum[i];", "numbers"),
    "the sums of delta's bias are written over those of the bias": (
        "table + (has_bias ? (long long)gridDim.x * width : 0)", "table", "numbers"),
}  # fmt: skip


@pytest.mark.parametrize("problem", RESIDUAL_LAYER_NORM.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(RESIDUAL_LAYER_NORM, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(RESIDUAL_LAYER_NORM, *FAULTS[fault])


def test_forward_is_the_formula():
    x, delta, weight, bias = array("x", 2, 3, 8), array("delta", 2, 3, 8), array("w", 8), array("b", 8)
    for delta_bias in (None, array("delta_bias", 8)):
        (total, y), _ = residual_layer_norm_forward(x, delta, weight, bias, delta_bias=delta_bias)
        expected = x + delta + (0 if delta_bias is None else delta_bias)
        assert_close(total, expected)
        assert_close(y, layer_norm_forward(expected, weight, bias)[0])


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(RESIDUAL_LAYER_NORM)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(RESIDUAL_LAYER_NORM, RoundedSum)


@pytest.mark.parametrize("problem", RESIDUAL_LAYER_NORM.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(RESIDUAL_LAYER_NORM, problem, device)


class RoundedSum:
    """What the kernel defines in bfloat16: the norm is that of the sum that is handed on, the rounded one."""

    @staticmethod
    def residual_layer_norm_forward(x, delta, weight, bias, eps, delta_bias):
        total = x + (delta if delta_bias is None else delta + delta_bias)
        total = total.astype(bfloat16()).astype(np.float64)
        y, saved = layer_norm_forward(total, weight, bias, eps)
        return (total, y), (saved, delta_bias is not None)

    residual_layer_norm_backward = staticmethod(residual_layer_norm_backward)


@pytest.mark.parametrize("problem", RESIDUAL_LAYER_NORM.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(RESIDUAL_LAYER_NORM, problem, device, RoundedSum)


@pytest.mark.parametrize("problem", RESIDUAL_LAYER_NORM.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(RESIDUAL_LAYER_NORM, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(RESIDUAL_LAYER_NORM, KERNEL_FAULTS[fault], monkeypatch)
