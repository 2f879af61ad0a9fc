"""The log-probability of a row's targets: gradients, formula, and the faults that these tests notice."""

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32, relative_error
from planting import assert_close, assert_gradcheck_catches, assert_gradients, planted

from minillm.backend.arrays import to_device, to_host
from minillm.backend.async_read import no_waits
from minillm.backend.precision import bfloat16
from minillm.checks.cases import SEQUENCE_LOG_PROBABILITY, array
from minillm.layers import sequence_log_probability
from minillm.layers.layer import Parameter
from minillm.layers.sequence_log_probability import (
    SequenceLogProbability,
    sequence_log_probability_backward,
    sequence_log_probability_forward,
)

TARGETS = np.array([[-100, -100, 5, 1], [3, -100, 1, -100], [-100, -100, -100, -100]])

FAULTS = {
    "the sign of the gradient": ("count = -1 / dlogp  #", "count = 1 / dlogp  #"),
    "every row has the coefficient of the first": ("count=count[b]", "count=count[0]"),
    "a mean in place of a sum": ("ignore_index, count=1)  #", "ignore_index, count=part.stop - part.start)  #"),
    "only the last row counts in dW": ("out=dweight[strip], add=True)", "out=dweight[strip])"),
    "no gradient of x": ("matmul(dlogits, weight, out=dx[b, part])", "pass"),
}
FORMULA_FAULTS = {
    "the first token of the answer is left out": ("(int(counted[0]),", "(int(counted[0]) + 1,"),
    "the last token of the answer is left out": ("int(counted[-1]) + 1)", "int(counted[-1]))"),
    "targets of the prompt count": (
        "targets[b, part], ignore_index, count=1)  #", "abs(targets[b, part]) % 6, -1, count=1)  #"),
    "the last chunk is left out": ("range(first, end, chunk_rows)", "range(first, end - 1, chunk_rows)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", SEQUENCE_LOG_PROBABILITY.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(SEQUENCE_LOG_PROBABILITY, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(SEQUENCE_LOG_PROBABILITY, *FAULTS[fault])


def formula(x, weight, targets, dlogp):
    """logp, dx and dweight of the derivation, a token at a time."""
    logp, dx, dweight = np.zeros(len(x)), np.zeros_like(x), np.zeros_like(weight)
    for b, t in np.argwhere(targets != -100):
        logits = weight @ x[b, t]
        p = np.exp(logits) / np.exp(logits).sum()
        logp[b] += np.log(p[targets[b, t]])
        dlogits = dlogp[b] * (np.eye(len(weight))[targets[b, t]] - p)
        dx[b, t] = dlogits @ weight
        dweight += np.outer(dlogits, x[b, t])
    return logp, dx, dweight


def computed(module, dlogp, **settings):
    x, weight = array("x", 3, 4, 5), array("w", 6, 5)
    logp, saved = module.sequence_log_probability_forward(x, weight, TARGETS, **settings)
    return logp, *module.sequence_log_probability_backward(dlogp, saved)


def is_the_formula(module, chunk_rows):
    dlogp = np.array([0.7, -2.0, 0.5])
    expected = formula(array("x", 3, 4, 5), array("w", 6, 5), TARGETS, dlogp)
    return all(
        np.allclose(*pair, rtol=1e-12, atol=1e-13)
        for pair in zip(computed(module, dlogp, chunk_rows=chunk_rows), expected)
    )


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 100])
def test_it_is_the_formula(chunk_rows):
    assert is_the_formula(sequence_log_probability, chunk_rows)


@pytest.mark.parametrize("fault", FORMULA_FAULTS)
def test_faults_against_the_formula(fault):
    assert not is_the_formula(planted(sequence_log_probability, *FORMULA_FAULTS[fault]), 1)


def test_strips_of_the_vocabulary_change_nothing(monkeypatch):
    whole = computed(sequence_log_probability, np.ones(3))
    monkeypatch.setattr(sequence_log_probability, "STRIP_ROWS", 4)
    for one, other in zip(computed(sequence_log_probability, np.ones(3)), whole):
        assert_close(one, other)


def test_whole_rows_are_the_same_as_the_spans_of_what_counts():
    dlogp = np.array([1.0, 2.0, 3.0])
    for one, other in zip(
        computed(sequence_log_probability, dlogp, spans=[(0, 4)] * 3), computed(sequence_log_probability, dlogp)
    ):
        assert_close(one, other)


def test_without_a_weight_x_are_the_logits_which_stay_as_they_are():
    logits, identity = array("z", 3, 4, 6), np.eye(6)
    kept = logits.copy()
    logp, saved = sequence_log_probability_forward(logits, None, TARGETS)
    dlogits, dweight = sequence_log_probability_backward(np.array([1.0, 2.0, 3.0]), saved)
    expected, saved = sequence_log_probability_forward(logits, identity, TARGETS)
    assert_close(logp, expected)
    assert_close(dlogits, sequence_log_probability_backward(np.array([1.0, 2.0, 3.0]), saved)[0])
    assert dweight is None and (logits == kept).all()


def test_a_row_of_coefficient_zero_has_no_gradient_and_says_nothing():
    with np.errstate(all="raise"):
        _, dx, dweight = computed(sequence_log_probability, np.array([0.0, 0.0, 0.0]))
    assert not dx.any() and not dweight.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_ten_thousand(dtype):
    """Nothing overflows; the second token is as good as impossible, the first certain."""
    x = np.array([[[1.0], [1.0]]], dtype)
    weight = np.array([[1e4], [-1e4], [0]], dtype)
    logp, saved = sequence_log_probability_forward(x, weight, np.array([[0, 1]]))
    assert logp == pytest.approx([-2e4]) and logp.dtype == np.float64
    dx, _ = sequence_log_probability_backward(np.ones(1), saved)
    assert dx[0, :, 0].tolist() == [0, -2e4]


def test_a_frozen_weight_gets_no_gradient():
    layer = SequenceLogProbability(Parameter(array("w", 6, 5)))
    layer.weight.frozen = True
    layer.forward(array("x", 3, 4, 5), TARGETS)
    assert_close(layer.backward(np.ones(3)), computed(sequence_log_probability, np.ones(3))[1])
    assert layer.weight.grad is None


def test_backward_needs_a_forward_in_training_mode():
    layer = SequenceLogProbability(Parameter(array("w", 6, 5))).eval()
    layer.forward(array("x", 3, 4, 5), TARGETS)
    with pytest.raises(RuntimeError, match="call train"):
        layer.backward(np.ones(3))


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(SEQUENCE_LOG_PROBABILITY)


def test_a_bfloat16_gradient_is_as_good_as_rounding_allows():
    """Against float64 on the rounded numbers: twice the error of bfloat16's own rounding."""
    x, weight = array("x", 3, 4, 64).astype(bfloat16()), (0.3 * array("w", 40, 64)).astype(np.float32)
    targets, dlogp = np.abs(TARGETS) % 40, np.array([1.0, -0.5, 2.0])
    logp, saved = sequence_log_probability_forward(x, weight, targets)
    dx, dweight = sequence_log_probability_backward(dlogp, saved)
    rounded = weight.astype(bfloat16()).astype(np.float64)
    expected = formula(x.astype(np.float64), rounded, targets, dlogp)
    assert (dx.dtype.name, dweight.dtype.name, logp.dtype.name) == ("bfloat16", "float32", "float64")
    assert relative_error(logp, expected[0]) <= 1e-6
    for found, exact in zip((dx, dweight), expected[1:]):
        assert relative_error(found, exact) <= 2 * relative_error(exact.astype(bfloat16()), exact) + 1e-6


def test_the_kernel_of_cross_entropy_serves_it(device):
    """On a device: the same numbers, and the host waits for none of them."""
    x, weight = array("x", 3, 4, 64).astype(np.float32), array("w", 40, 64).astype(np.float32)
    dlogp = np.array([1.0, -0.5, 0.0])
    targets = np.where(TARGETS < 0, -100, 7 * np.abs(TARGETS))
    expected = formula(x.astype(np.float64), weight.astype(np.float64), targets, dlogp)
    x, weight, dlogp, targets = (to_device(each, device) for each in (x, weight, dlogp, targets))
    with no_waits():
        logp, saved = sequence_log_probability_forward(x, weight, targets)
        found = logp, *sequence_log_probability_backward(dlogp, saved)
    for one, exact in zip(found, expected):
        assert relative_error(to_host(one), exact) <= 1e-5


def test_in_bfloat16_on_a_device(device):
    """With the head's copy in bfloat16, whose rows go up to 64: errors as those of rounded numbers are."""
    x, weight = array("x", 3, 4, 64), array("w", 40, 64)
    targets = np.where(TARGETS < 0, -100, 7 * np.abs(TARGETS))
    dlogp = np.array([1.0, -0.5, 0.0])
    head = SequenceLogProbability(Parameter(to_device(weight.astype(np.float32), device)))
    logp = head.forward(to_device(x.astype(bfloat16()), device), to_device(targets, device))
    dx = head.backward(to_device(dlogp, device))
    exact = formula(x, weight, targets, dlogp)
    assert head.weight.grad.shape == weight.shape and head.weight.grad.dtype == np.float32 and dx.dtype == bfloat16()
    for found, wanted in zip((logp, dx, head.weight.grad), exact):
        assert relative_error(to_host(found), wanted) <= 2e-2
