"""SwiGLU and the MLP around it: gradients, formula, every implementation, and the faults that are noticed."""

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

from minillm.checks.cases import SWIGLU, SWIGLU_MLP, array
from minillm.layers.swiglu import swiglu_backward, swiglu_by_tanh, swiglu_forward

FAULTS = {
    "dup not multiplied by dh": ("    dup *= dh\n", ""),
    "s in place of 1 - s": ("    dgate = 1 - s\n", "    dgate = s.copy()\n"),
    "the gate's own path is left out": ("    dgate += 1\n", ""),
    "dgate not multiplied by s": ("    dgate *= s\n", ""),
    "dgate not multiplied by up": ("    dgate *= up\n", ""),
    "dgate not multiplied by dh": ("    dgate *= dh\n", ""),
    "dgate and dup exchanged": (
        "return downcast(dgate, like), downcast(dup, like)", "return downcast(dup, like), downcast(dgate, like)"),
}  # fmt: skip

LAYER_FAULTS = {
    "the path through up is left out": (
        "return backward_onto(self.up_proj, dup, dx)",
        "self.up_proj.backward(dup); return dx",
    ),
    "the gate gets the gradient of up": ("self.gate_proj.backward(dgate)", "self.gate_proj.backward(dup)"),
}

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "the sigmoid's own gradient is dropped": (" * (1 + g[i] * (1 - s))", "", "numbers"),
    "the end is not cut": ("if (n < count)", "if (n <= count)", "check"),
    "the end is left out": ("if (n < count)", "if (false)", "numbers"),
}


@pytest.mark.parametrize("case, problem", [(case, p) for case in (SWIGLU, SWIGLU_MLP) for p in case.gradcheck], ids=str)
def test_gradients(case, problem):
    assert_gradients(case, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(SWIGLU, *FAULTS[fault])


@pytest.mark.parametrize("fault", LAYER_FAULTS)
def test_faults_in_the_layer_are_caught(fault):
    assert_gradcheck_catches(SWIGLU_MLP, *LAYER_FAULTS[fault])


def test_forward_is_the_formula():
    gate, up = 5 * array("gate", 4, 5), array("up", 4, 5)
    assert_close(swiglu_forward(gate, up)[0], gate / (1 + np.exp(-gate)) * up)


def test_large_values_do_not_overflow():
    gate = np.array([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32)
    h = swiglu_forward(gate, np.ones_like(gate))[0]
    assert_close(h, [0, 0, 0, 100, 1e4], 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_gates_neither_warn_nor_become_nan(dtype):
    gate, up = np.array([-1e6, -800, -100, 0, 100, 1e6], dtype), np.full(6, 2, dtype)
    with np.errstate(all="raise", under="ignore"):
        h, saved = swiglu_forward(gate, up)
        dgate, _ = swiglu_backward(np.ones(6, dtype), saved)
    assert np.allclose(h, [0, 0, 0, 0, 200, 2e6], atol=1e-30) and np.allclose(dgate, [0, 0, 0, 1, 2, 2], atol=1e-30)


def test_the_two_forms_are_equal():
    gate, up = array("gate", 3, 7), array("up", 3, 7)
    assert_close(swiglu_by_tanh(gate, up), swiglu_forward(gate, up)[0], 1e-14)


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(SWIGLU)


def test_numpy_agrees_in_bfloat16():
    assert_numpy_agrees_in_bfloat16(SWIGLU)


@pytest.mark.parametrize("problem", SWIGLU.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(SWIGLU, problem, device)


@pytest.mark.parametrize("problem", SWIGLU.kernels, ids=str)
def test_kernel_agrees_in_bfloat16(problem, device):
    assert_kernel_agrees_in_bfloat16(SWIGLU, problem, device)


@pytest.mark.parametrize("problem", SWIGLU.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(SWIGLU, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(SWIGLU, KERNEL_FAULTS[fault], monkeypatch)
