"""The norm of all gradients and the scale that clips it: the formula, the kernel, and a fault that is noticed."""

import importlib
import inspect

import numpy as np
import pytest
from kernel_testing import (
    assert_check_mode_reports_nothing,
    assert_kernel_agrees,
    assert_kernel_fault_is_noticed,
    assert_numpy_agrees_in_float32,
    on_device,
)

from minillm.backend.arrays import to_host
from minillm.checks.cases import GLOBAL_NORM, array, at
from minillm.layers.layer import Parameter
from minillm.optim import clip
from minillm.optim import global_norm as clipping
from minillm.optim.global_norm import clip_scale, clipped_norm, global_norm

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {"every thread writes": ("if (threadIdx.x == 0) sums", "sums", "check")}


def gradients():
    return [array(f"gradient {name}", *shape) for name, shape in {"a": (3, 4), "b": (5,), "c": (2, 2, 2)}.items()]


def together():
    return np.linalg.norm(np.concatenate([gradient.ravel() for gradient in gradients()]))


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_norm_is_that_of_all_gradients_as_one_vector(monkeypatch, block):
    monkeypatch.setattr(clipping, "BLOCK", block)
    assert global_norm(gradients()) == pytest.approx(together(), rel=1e-14)


@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("share", [0.25, 2.0])
def test_clipped_gradients_have_the_largest_norm_and_their_direction(share, accumulated):
    largest = share * together() / accumulated
    norm, scale = clipped_norm(gradients(), largest, accumulated)
    assert norm == pytest.approx(together() / accumulated)
    clipped = [scale * gradient for gradient in gradients()]
    assert global_norm(clipped) == pytest.approx(min(1, share) * norm)
    assert clipped_norm(gradients(), 0.0, accumulated) == (norm, 1 / accumulated)


def test_clip_takes_the_gradients_of_parameters():
    parameters = {str(i): Parameter(np.zeros_like(gradient)) for i, gradient in enumerate(gradients())}
    for parameter, gradient in zip(parameters.values(), gradients()):
        parameter.grad = gradient
    assert clip(parameters, 0.5, 2) == clipped_norm(gradients(), 0.5, 2)
    assert clip(parameters, None) == (global_norm(gradients()), 1.0)
    assert clip({}, 1.0) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["global_norm", "clipped_norm"])
def test_it_has_the_arguments_of_its_kernel(name):
    kernel = importlib.import_module("minillm.kernels.global_norm")
    assert inspect.signature(getattr(clipping, name)) == inspect.signature(getattr(kernel, name))


@pytest.mark.parametrize("max_norm", [None, 0, 5.0, 6.0])
def test_no_clipping(max_norm):
    assert clip_scale(5.0, max_norm) == 1.0


# ---------------------------------------------------------------------------------------------------- the kernel


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(GLOBAL_NORM)


@pytest.mark.parametrize("problem", GLOBAL_NORM.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(GLOBAL_NORM, problem, device)


@pytest.mark.parametrize("problem", GLOBAL_NORM.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(GLOBAL_NORM, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(GLOBAL_NORM, KERNEL_FAULTS[fault], monkeypatch)


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_scale_that_clips_is_that_of_the_host(max_norm, accumulated, device):
    op, a = on_device(GLOBAL_NORM, at((3, 4), (5000,)), device)
    norm, scale = op.clipped_norm(a.gradients, max_norm, accumulated)
    together = np.concatenate([to_host(gradient).ravel() for gradient in a.gradients]).astype(np.float64)
    expected = np.linalg.norm(together) / accumulated
    assert (norm.dtype, scale.dtype) == (np.float64, np.float32)
    assert float(norm) == pytest.approx(expected, rel=1e-6)
    assert float(scale) == pytest.approx(clip_scale(expected, max_norm) / accumulated, rel=1e-6)
