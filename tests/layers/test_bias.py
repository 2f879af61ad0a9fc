"""Bias: gradients, formula, every implementation, and the faults that these tests notice."""

from contextlib import contextmanager

import numpy as np
import pytest
from kernel_testing import (
    assert_check_mode_reports_nothing,
    assert_kernel_agrees,
    assert_kernel_agrees_in_bfloat16,
    assert_kernel_fault_is_noticed,
    assert_numpy_agrees_in_float32,
)
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.backend.arrays import to_device, to_host
from minillm.backend.hooks import add_hook
from minillm.checks.cases import BIAS, array
from minillm.layers.bias import add_bias, bias_forward, sum_over_rows

FAULTS = {
    "dbias is a mean in place of a sum": (
        "return matmul(ones, dy_rows)",
        "return matmul(ones, dy_rows / len(dy_rows))",
    ),
    "the bias counts twice": ("z += downcast(bias, z)\n", "z += 2 * downcast(bias, z)\n"),
}

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "no barrier between the threads of a column": ("= sum[i];\n    __syncthreads();", "= sum[i];", "check"),
    "a thread's sum is left out": ("for (int y = 1; y < DEEP", "for (int y = 2; y < DEEP", "numbers"),
    "rows counted twice": ("return (long long)gridDim.x * DEEP;", "return (long long)gridDim.x * (DEEP - 1);", "check"),
    "every group of columns is the first": ("(blockIdx.y * WIDE + threadIdx.x) * N", "threadIdx.x * N", "check"),
}  # fmt: skip


@pytest.mark.parametrize("problem", BIAS.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(BIAS, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(BIAS, *FAULTS[fault])


def test_forward_is_the_formula():
    z, bias = array("z", 2, 3), array("bias", 3)
    expected = z + bias
    assert bias_forward(z, bias)[0] is z
    assert_close(z, expected)


def test_a_device_adds_and_sums_with_kernels(simulator):
    z, bias = to_device(array("z", 40, 8).astype("float32"), "cudasim"), to_device(np.ones(8, "float32"), "cudasim")
    seen = []

    @contextmanager
    def hook(kind, name, arrays):
        seen.append(name.partition("<")[0])
        yield

    expected = to_host(z) + 1
    with add_hook(hook):
        add_bias(z, bias)
        total = sum_over_rows(z)
    assert seen == ["bias_forward", "bias_backward", "column_sum"]
    assert (to_host(z) == expected).all()
    assert_close(to_host(total), expected.astype(float).sum(axis=0), 1e-5)


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(BIAS)


@pytest.mark.parametrize("problem", BIAS.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(BIAS, problem, device)


@pytest.mark.parametrize("problem", BIAS.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(BIAS, problem, device)


@pytest.mark.parametrize("problem", BIAS.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(BIAS, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(BIAS, KERNEL_FAULTS[fault], monkeypatch)


def test_a_bias_may_lie_in_any_order(simulator):
    z, bias = (to_device(array(*place).astype(np.float32), "cudasim") for place in (("z", 3, 8), ("b", 16)))
    expected = to_host(z) + to_host(bias)[::2]
    assert (to_host(add_bias(z, bias[::2])) == expected).all()
