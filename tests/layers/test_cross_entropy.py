"""Cross-entropy: gradients, formula, every implementation, and the faults that these tests notice."""

import math

import numpy as np
import pytest
from kernel_testing import (
    assert_check_mode_reports_nothing,
    assert_kernel_agrees,
    assert_kernel_fault_is_noticed,
    assert_numpy_agrees_in_float32,
    on_device,
    relative_error,
)
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import activation_dtype
from minillm.checks.case import BACKWARD
from minillm.checks.cases import CROSS_ENTROPY, array, at
from minillm.kernels import cross_entropy as kernel
from minillm.kernels.launch import FLOATS
from minillm.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward

TARGETS = np.array([[1, 0, 5], [3, -100, 1]])

FAULTS = {
    "softmax without the one-hot": ("p[rows, t] -= (1 - label_smoothing) * scale", "pass"),
    "a sum in place of a mean": ("scale = (counted / count)", "scale = (counted / 1)"),
    "ignored rows get a gradient": ("scale = (counted / count)", "scale = (1 / count + 0 * counted)"),
    "probabilities not divided by their sum": ("p *= (scale / total)[:, None]", "p *= scale[:, None]"),
    "label smoothing is left out of the gradient": (
        "p -= (label_smoothing / vocabulary * scale)[:, None]", "pass"),
}  # fmt: skip

# (a text of the kernel's source, what is put in its place, what notices it)
KERNEL_FAULTS = {
    "sum not scaled to the new maximum": (
        "online.sum * expf(online.max - value) + 1", "online.sum + 1", "numbers"),
    "gradient not divided by the count": ("scale = (float)(1 / *count)", "scale = 1", "numbers"),
    "ignored rows keep their logits": (
        "j += blockDim.x) dz[j] = (Number)0.0f;", "j += blockDim.x) {}", "numbers"),
}  # fmt: skip


@pytest.mark.parametrize("problem", CROSS_ENTROPY.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(CROSS_ENTROPY, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(CROSS_ENTROPY, *FAULTS[fault])


def test_gradient_is_linear_in_dloss():
    loss, saved = cross_entropy_forward(array("z", 2, 6), np.array([1, 2]))
    gradient = saved.copy()
    assert_close(cross_entropy_backward(3.0, saved), 3 * gradient)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_forward_is_the_formula(label_smoothing):
    z = array("z", 2, 3, 6)
    losses = []
    for row, target in zip(z.reshape(-1, 6), TARGETS.ravel()):
        if target != -100:
            q = np.full(6, label_smoothing / 6)
            q[target] += 1 - label_smoothing
            losses.append(-sum(q * (row - math.log(sum(math.exp(v) for v in row)))))
    loss, _ = cross_entropy_forward(z.copy(), TARGETS, label_smoothing=label_smoothing)
    assert loss == pytest.approx(np.mean(losses), rel=1e-13)


@pytest.mark.parametrize("vocabulary", [1, 2, 65, 50257])
@pytest.mark.parametrize("level", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_prediction(vocabulary, level, dtype):
    """Identical logits: the loss is ln V and the perplexity V. With one class there is nothing to be unsure about."""
    loss, gradient = cross_entropy_forward(np.full((3, vocabulary), level, dtype), np.zeros(3, int))
    assert loss == pytest.approx(math.log(vocabulary), rel=1e-6, abs=1e-12)
    assert math.exp(loss) == pytest.approx(vocabulary, rel=1e-5)
    assert abs(gradient.sum()) < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_ten_thousand(dtype):
    z = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0]], dtype)
    loss, gradient = cross_entropy_forward(z, np.array([0, 1]))
    assert loss == pytest.approx(1e4)  # 0 for the first row, 20,000 for the second
    assert_close(gradient, np.array([[0, 0, 0], [0.5, -0.5, 0]]))


def test_gradient_is_written_over_the_logits():
    z = array("z", 4, 6)
    assert np.shares_memory(cross_entropy_forward(z, np.array([0, 1, 2, 3]))[1], z)


def test_all_ignored():
    with pytest.raises(ValueError, match="all 2 targets are ignore_index"):
        cross_entropy_forward(array("z", 2, 6), np.array([-100, -100]))


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(CROSS_ENTROPY)


@pytest.mark.parametrize("problem", CROSS_ENTROPY.kernels, ids=str)
def test_kernel_agrees(problem, device):
    assert_kernel_agrees(CROSS_ENTROPY, problem, device)


@pytest.mark.parametrize("number", FLOATS)
def test_the_kernel_writes_its_gradient_into_a_given_array(number, device):
    """Into the first columns of an array that may be wider, rounded to its dtype; the logits stay as they are."""
    problem = at(9, 1000, ignored=(8,), ramp=True, masked=True)
    (op, a), exact = on_device(CROSS_ENTROPY, problem, device), CROSS_ENTROPY.make(problem)
    before = to_host(a.logits).copy()
    gradient = to_device(np.full((9, 1008), 7, np.float32).astype(activation_dtype(number)), device)
    _, dlogits = op.cross_entropy_forward(a.logits, a.targets, label_smoothing=0.1, gradient=gradient)
    exact_logits = np.where(before == -np.inf, -1e4, before).astype(np.float64)
    exact_gradient = np.empty((9, 1000))
    cross_entropy_forward(exact_logits, exact.targets, label_smoothing=0.1, gradient=exact_gradient)
    np.testing.assert_array_equal(to_host(a.logits), before)
    assert dlogits.shape == (9, 1000) and dlogits.dtype.name == number
    assert (to_host(gradient)[:, 1000:] == 7).all()
    rounded = exact_gradient.astype(activation_dtype(number)).astype(np.float64)
    allowed = 1.01 * relative_error(rounded, exact_gradient) + BACKWARD
    assert relative_error(to_host(dlogits), exact_gradient) <= allowed
    with pytest.raises(ValueError, match="gradient is"):
        op.cross_entropy_forward(a.logits, a.targets, gradient=gradient[:, :999].copy())


def test_the_kernel_gives_nan_where_the_host_would_raise(device):
    logits = to_device(np.zeros((2, 5), np.float32), device)
    for targets in ([-100, -100], [0, 5], [-1, 0]):
        loss, _ = kernel.cross_entropy_forward(logits.copy(), to_device(np.array(targets), device))
        assert np.isnan(float(loss))


@pytest.mark.parametrize("problem", CROSS_ENTROPY.kernels, ids=str)
def test_check_mode_reports_nothing(problem, simulator):
    assert_check_mode_reports_nothing(CROSS_ENTROPY, problem)


@pytest.mark.parametrize("fault", KERNEL_FAULTS)
def test_kernel_faults_are_noticed(fault, monkeypatch, simulator):
    assert_kernel_fault_is_noticed(CROSS_ENTROPY, KERNEL_FAULTS[fault], monkeypatch)
