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
        "online.sum * expf(online.max - largest) + sum", "online.sum + sum", "numbers"),
    "gradient not divided by the count": ("scale = (float)(1 / *count)", "scale = 1", "numbers"),
    "ignored rows keep their logits": (
        "packed[p] = zeros;", "{}", "numbers"),
    "logits outside of the packs are left out": (
        "has_single = threadIdx.x < singles", "has_single = false", "numbers"),
    "the target is written while another thread writes it": (
        "__syncthreads();  // z[target]", "// z[target]", "check"),
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
@pytest.mark.parametrize("start", [0, 3])
def test_rows_of_a_wider_array(number, start, device):
    """Logits of either dtype in columns of a wider array, wherever a row begins; the other columns are left alone."""
    problem = at(9, 1001, ignored=(8,), ramp=True)
    op, _ = on_device(CROSS_ENTROPY, problem, device)
    exact = CROSS_ENTROPY.make(problem)
    whole = to_device(np.full((9, 1024), 7, np.float32).astype(activation_dtype(number)), device)
    logits = whole[:, start : start + 1001]
    logits[...] = to_device(exact.logits.astype(activation_dtype(number)), device)
    given = to_host(logits).astype(np.float64)
    targets = to_device(exact.targets, device)
    loss, dlogits = op.cross_entropy_forward(
        logits, targets, label_smoothing=0.1, before=to_device(np.array(2.5), device)
    )
    wanted, _ = cross_entropy_forward(given, exact.targets, label_smoothing=0.1, before=2.5)
    assert float(loss) == pytest.approx(wanted, rel=1e-6)
    assert dlogits.shape == (9, 1001) and dlogits.dtype.name == number
    rounded = given.astype(activation_dtype(number)).astype(np.float64)
    assert relative_error(to_host(dlogits), given) <= 1.01 * relative_error(rounded, given) + BACKWARD
    assert (to_host(whole)[:, :start] == 7).all() and (to_host(whole)[:, start + 1001 :] == 7).all()
    with pytest.raises(ValueError, match="not C-contiguous"):
        op.cross_entropy_forward(whole[:, ::2], targets)


def test_bfloat16_errs_at_most_twice_as_much_as_rounded_logits(device):
    """Against float64: loss and gradient of logits that are rounded, and computed with exactly, are the reference."""
    problem = at(64, 5003, ramp=True, label_smoothing=0.1)
    op, a = on_device(CROSS_ENTROPY, problem, device)
    exact, plain = CROSS_ENTROPY.make(problem), CROSS_ENTROPY.make(problem)
    number = activation_dtype("bfloat16")
    plain.logits[...] = plain.logits.astype(number)
    settings = dict(label_smoothing=0.1)
    wanted, _ = cross_entropy_forward(exact.logits, exact.targets, **settings)
    of_rounded, _ = cross_entropy_forward(plain.logits, plain.targets, **settings)
    loss, dlogits = op.cross_entropy_forward(a.logits.astype(number), a.targets, **settings)
    assert abs(float(loss) - wanted) <= 2 * abs(of_rounded - wanted) + 1e-7
    plain_error = relative_error(plain.logits.astype(number), exact.logits)
    assert relative_error(to_host(dlogits), exact.logits) <= 2 * plain_error


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
