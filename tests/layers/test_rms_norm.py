"""RMS norm: gradients, formula, every implementation, and the faults that these tests notice."""

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

from minillm.checks.cases import RMS_NORM, array
from minillm.layers.rms_norm import rms_norm_forward

FAULTS = {
    "no path through the root mean square": (
        "dx -= xp.multiply(normed, along_normed[:, None], out=product)", "pass"),
    "dx not divided by the root mean square": ("dx *= rstd[:, None]", "pass"),
    "dy not multiplied by the weight": ("dx = dy_rows * weight\n", "dx = dy_rows.copy()\n"),
    "dweight is a mean in place of a sum": (
        "dtype=dy_rows.dtype) @ product  #", "dtype=dy_rows.dtype) @ product / N  #"),
}  # fmt: skip

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "block_sum: no barrier before the sums are read": (
        "/ 32] = value;\n    __syncthreads();", "/ 32] = value;", "check"),
    "block_sum: barrier in a branch": (
        "/ 32] = value;\n    __syncthreads();",
        "/ 32] = value;\n    if (threadIdx.x < 32) __syncthreads();", "check"),
    "warp_sum: a step is missing": ("distance = 16", "distance = 8", "numbers"),
    "bound off by one": ("column_of<N>(i) < width", "column_of<N>(i) <= width", "check"),
}  # fmt: skip


@pytest.mark.parametrize("problem", RMS_NORM.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(RMS_NORM, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(RMS_NORM, *FAULTS[fault])


@pytest.mark.parametrize("shape", [(1, 2), (5, 1), (2, 3, 7)])
def test_forward_is_the_formula(shape):
    x, weight = array("x", *shape), array("w", shape[-1])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight
    assert_close(rms_norm_forward(x, weight)[0], expected)


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(RMS_NORM)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(RMS_NORM)


@pytest.mark.parametrize("problem", RMS_NORM.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(RMS_NORM, problem, device)


@pytest.mark.parametrize("problem", RMS_NORM.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(RMS_NORM, problem, device)


@pytest.mark.parametrize("problem", RMS_NORM.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(RMS_NORM, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(RMS_NORM, KERNEL_FAULTS[fault], monkeypatch)
