"""DPO: learn to prefer one answer to another, from pairs of a chosen and a rejected one.

Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward
Model" (2023), equations 5 to 7. By Bradley and Terry (1952) an answer with reward r_c is preferred
to one with reward r_r with the probability sigmoid(r_c - r_r). A model that has the highest mean
reward, less beta times its divergence from a reference model, is itself the reward:

    reward = beta (log p(answer | prompt) - log p_reference(answer | prompt))
             + what the prompt alone decides

The prompt is the same in both answers of a pair, so that part cancels in the margin of pair i:

    reward_c = beta (c_i - ref_c_i)        c, r: log-probability of the chosen and the rejected answer
    reward_r = beta (r_i - ref_r_i)        (sequence_log_probability.py); ref_: by the reference, fixed
    m_i = reward_c - reward_r
    loss = mean_i -log sigmoid(m_i) = mean_i softplus(-m_i)        softplus(z) = log(1 + e^z)

Where a share e of the labels is taken to be swapped ("conservative DPO", Mitchell 2023; label
smoothing), the other order counts with that weight:

    loss = 1/N sum_i (1 - e) softplus(-m_i) + e softplus(m_i)

Backward. softplus' = sigmoid, so with the chain rule through -m_i and m_i

    dm_i = (e sigmoid(m_i) - (1 - e) sigmoid(-m_i)) / N
    dc_i = beta dm_i                                   from m_i = beta c_i + ...
    dr_i = -beta dm_i                                  from m_i = -beta r_i + ...

For e = 0 the chosen answer is pushed up and the rejected one down, by beta / N each times the
probability sigmoid(-m_i) that the model gives to the wrong order: pairs that are in order already
hardly count. The reference has no gradient.

A model that is its own reference has m = 0 and the loss log 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minillm.backend.arrays import array_module

# Rewards that differ by less are equal: 0.50002 to 0.49998, and as much as float32 rounds a
# log-probability.
TIE = 1e-4


class DPOSaved(NamedTuple):
    """What backward needs of forward."""

    margins: Any  # (N,)
    beta: float
    label_smoothing: float
    count: Any


class Rewards(NamedTuple):
    """Of each pair."""

    chosen: Any  # (N,)
    rejected: Any  # (N,)


def dpo_forward(chosen, rejected, reference_chosen, reference_rejected, beta, label_smoothing=0.0, count=None):
    """Log-probabilities of N answers each, (N,) in nats  ->  mean loss (0-d), saved

    chosen, rejected: by the model that learns; reference_...: by the one that does not. beta: how
    much the model may differ from the reference for a reward, above 0; the smaller the farther.
    label_smoothing: e, from 0 to below 1/2. count: what the sum is divided by, by default N.
    """
    xp = array_module(chosen)
    count = len(chosen) if count is None else count
    margins = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))  # (N,)
    losses = (1 - label_smoothing) * xp.logaddexp(0, -margins) + label_smoothing * xp.logaddexp(0, margins)
    loss = losses.sum() / count
    return loss, DPOSaved(margins, beta, label_smoothing, count)


def dpo_backward(dloss, saved):
    """dloss (0-d)  ->  dchosen (N,), drejected (N,)"""
    margins, beta, label_smoothing, count = saved
    # forward: (1 - label_smoothing) * xp.logaddexp(0, -margins); label_smoothing * xp.logaddexp(0,
    # margins): the derivative of softplus is sigmoid
    dmargins = label_smoothing * sigmoid(margins) - (1 - label_smoothing) * sigmoid(-margins)
    # forward: loss = losses.sum() / count
    dmargins *= dloss / count
    # forward: margins = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    dchosen = beta * dmargins
    drejected = -beta * dmargins
    return dchosen, drejected


def sigmoid(z):
    """1 / (1 + e^-z), as e^-softplus(-z): no exponential overflows, and small values keep all their
    digits.
    """
    xp = array_module(z)
    return xp.exp(-xp.logaddexp(0, -z))


def dpo_rewards(chosen, rejected, reference_chosen, reference_rejected, beta) -> Rewards:
    """chosen, rejected, reference_chosen, reference_rejected (N,)  ->  the implied rewards of each
    pair
    """
    return Rewards(beta * (chosen - reference_chosen), beta * (rejected - reference_rejected))


def ordered_share(rewards: Rewards):
    """The share of pairs whose chosen answer has the higher reward; rewards that are as good as
    equal count half.
    """
    ahead = rewards.chosen - rewards.rejected
    return ((ahead > TIE) + 0.5 * (abs(ahead) <= TIE)).mean()
