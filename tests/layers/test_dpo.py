"""DPO: gradients, formula, and the faults that these tests notice."""

import math

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32
from planting import assert_gradcheck_catches, assert_gradients, planted

from minillm.checks.cases import DPO
from minillm.layers import dpo
from minillm.layers.dpo import Rewards, dpo_backward, dpo_forward, dpo_rewards, ordered_share, sigmoid

CHOSEN, REJECTED = np.array([-3.0, -10.0, -4.0]), np.array([-5.0, -2.0, -4.5])
REFERENCE = np.array([-4.0, -9.0, -4.0]), np.array([-4.5, -3.0, -4.5])

FAULTS = {
    "the sign of the margins' gradient": (
        "label_smoothing * sigmoid(margins) - (1", "label_smoothing * sigmoid(margins) + (1"),
    "both answers are pushed up": ("drejected = -beta * dmargins", "drejected = beta * dmargins"),
    "beta missing in the gradient": ("dchosen = beta * dmargins", "dchosen = dmargins"),
    "chosen and rejected swapped in the gradient": ("return dchosen, drejected", "return drejected, dchosen"),
    "a sum in place of a mean": ("dmargins *= dloss / count", "dmargins *= dloss"),
    "sigmoid of the margin in place of its negative": (
        "label_smoothing) * sigmoid(-margins)", "label_smoothing) * sigmoid(margins)"),
    "label smoothing is left out of the gradient": ("label_smoothing * sigmoid(margins) - ", "-"),
}  # fmt: skip
FORMULA_FAULTS = {
    "beta missing": ("margins = beta * (", "margins = 1 * ("),
    "the reference is added": ("(chosen - reference_chosen)", "(chosen + reference_chosen)"),
    "chosen and rejected swapped": (
        "((chosen - reference_chosen) - (rejected - reference_rejected))",
        "((rejected - reference_rejected) - (chosen - reference_chosen))"),
    "the references swapped": ("(chosen - reference_chosen) - (rejected", "(chosen - reference_rejected) - (rejected"),
    "the policy's own log-probabilities as reference": ("(rejected - reference_rejected))", "(rejected - rejected))"),
    "a sum in the place of a mean": ("loss = losses.sum() / count", "loss = losses.sum()"),
    "beta missing in the rewards": ("return Rewards(beta *", "return Rewards("),
    "equal rewards count as won": ("0.5 * (abs(ahead)", "1 * (abs(ahead)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", DPO.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(DPO, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(DPO, *FAULTS[fault])


def check_formula(module):
    """Loss, rewards and share against the equations, a pair at a time."""
    beta, smoothing = 0.3, 0.1
    losses, rewards, share = [], [], []
    for c, r, ref_c, ref_r in zip(CHOSEN, REJECTED, *REFERENCE):
        reward_c, reward_r = beta * (c - ref_c), beta * (r - ref_r)
        prefers = 1 / (1 + math.exp(reward_r - reward_c))
        losses.append(-(1 - smoothing) * math.log(prefers) - smoothing * math.log(1 - prefers))
        rewards.append((reward_c, reward_r))
        share.append(1 if reward_c > reward_r else 0.5 if reward_c == reward_r else 0)
    loss, _ = module.dpo_forward(CHOSEN, REJECTED, *REFERENCE, beta, smoothing)
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)
    found = module.dpo_rewards(CHOSEN, REJECTED, *REFERENCE, beta)
    np.testing.assert_allclose(np.stack(found, axis=1), rewards, rtol=1e-12)
    assert module.ordered_share(found) == pytest.approx(np.mean(share))


def test_it_is_the_formula():
    check_formula(dpo)


@pytest.mark.parametrize("fault", FORMULA_FAULTS)
def test_faults_against_the_formula(fault):
    with pytest.raises(AssertionError):
        check_formula(planted(dpo, *FORMULA_FAULTS[fault]))


def test_a_model_that_is_its_own_reference_pays_log_2():
    loss, saved = dpo_forward(CHOSEN, REJECTED, CHOSEN, REJECTED, beta=0.1)
    assert loss == pytest.approx(math.log(2), rel=1e-15)
    for gradient, sign in zip(dpo_backward(1.0, saved), (-1, 1)):
        np.testing.assert_allclose(gradient, sign * 0.1 / 2 / 3)  # beta / N, times the probability 1/2
    assert ordered_share(dpo_rewards(CHOSEN, REJECTED, CHOSEN, REJECTED, 0.1)) == 0.5


def test_margins_of_thousands_overflow_nowhere():
    far = np.array([5e4, -5e4])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        loss, saved = dpo_forward(far, np.zeros(2), np.zeros(2), np.zeros(2), beta=1.0)
        dchosen, drejected = dpo_backward(1.0, saved)
    assert loss == pytest.approx(2.5e4)
    assert dchosen.tolist() == [0, -0.5] and drejected.tolist() == [0, 0.5]


def test_a_small_gradient_keeps_its_digits():
    """sigmoid(-40) by way of 1 - sigmoid(40) would be 0."""
    assert sigmoid(np.array([-40.0]))[0] == pytest.approx(math.exp(-40) / (1 + math.exp(-40)), rel=1e-14)


def test_a_count_of_a_whole_batch_divides_its_parts():
    whole, _ = dpo_forward(CHOSEN, REJECTED, *REFERENCE, 0.3)
    parts = [
        dpo_forward(CHOSEN[s], REJECTED[s], *(each[s] for each in REFERENCE), 0.3, count=3)[0]
        for s in (slice(0, 1), slice(1, 3))
    ]
    assert sum(parts) == pytest.approx(whole, rel=1e-14)


def test_equal_rewards_count_half():
    """And those that rounding alone has made different."""
    assert ordered_share(Rewards(np.array([1.0, 0.0, 2.0, -1.0]), np.array([0.0, 0.0, 3.0, -1.0]))) == 0.5
    assert ordered_share(Rewards(np.array([1e-6, 0.0]), np.array([0.0, 1e-3]))) == 0.25


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(DPO)
