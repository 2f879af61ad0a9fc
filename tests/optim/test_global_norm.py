"""The norm of all gradients and the scale that clips it: the formula, the kernel, and a fault that is noticed."""

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
from minillm.optim import clip_scale, global_norm

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {"every thread writes": ("if (threadIdx.x == 0) sums", "sums", "check")}


def parameters():
    found = {name: Parameter(array(name, *shape)) for name, shape in {"a": (3, 4), "b": (5,), "c": (2, 2, 2)}.items()}
    for name, parameter in found.items():
        parameter.grad = array(f"gradient {name}", *parameter.value.shape)
    return found


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_norm_is_that_of_all_gradients_as_one_vector(monkeypatch, block):
    monkeypatch.setattr(GLOBAL_NORM.module, "BLOCK", block)
    together = np.concatenate([parameter.grad.ravel() for parameter in parameters().values()])
    assert global_norm(parameters()) == pytest.approx(np.linalg.norm(together), rel=1e-14)


def test_clipped_gradients_have_the_largest_norm_and_their_direction():
    norm = global_norm(parameters())
    scale = clip_scale(norm, norm / 4)
    assert scale == pytest.approx(0.25)
    clipped = parameters()
    for parameter in clipped.values():
        parameter.grad *= scale
    assert global_norm(clipped) == pytest.approx(norm / 4)


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
