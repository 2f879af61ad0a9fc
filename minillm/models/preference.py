"""A language model that learns from preferences: pairs of a chosen and a rejected answer to a
prompt.

    logp = the model's log-probability of each answer              (N, 2, T) -> (N, 2)
    loss = dpo(logp[:, 0], logp[:, 1], those of the reference)     layers/dpo.py

Both answers of a pair go through the model in one batch of 2 N rows. The reference is the model as
it was before: its log-probabilities never change, so they are computed once and are arguments here.
"""

from __future__ import annotations

from typing import NamedTuple

from minillm.backend.arrays import array_module, device_of, to_device
from minillm.errors import UserError
from minillm.layers.dpo import dpo_backward, dpo_forward, dpo_rewards, ordered_share
from minillm.layers.layer import Layer, Parameter

CHOSEN, REJECTED = 0, 1  # the place of an answer in its pair


class PairFigures(NamedTuple):
    """What is said of a batch of pairs besides its loss. All are means over the pairs."""

    accuracy: float  # the share of pairs whose chosen answer has the higher reward; equal ones count half
    margin: float  # reward of the chosen answer less that of the rejected one
    chosen_reward: float
    rejected_reward: float
    chosen_logp: float
    rejected_logp: float


class PreferenceModel(Layer):
    """The DPO loss of a language model, with the methods of a model that training needs.

    model: the LanguageModel that learns; its parameters keep their names. beta, label_smoothing:
    layers/dpo.py. In evaluation mode the loss is measured without label smoothing.

    figures: the sums over pairs behind PairFigures, of the last call of `loss`: an array on the
    model's device; see `read_figures`.
    """

    def __init__(self, model, beta: float, label_smoothing: float = 0.0):
        self.model, self.beta, self.label_smoothing = model, beta, label_smoothing
        self.figures = None

    def parameters(self) -> dict[str, Parameter]:
        """Those of the language model, by their names there."""
        return self.model.parameters()

    def replica(self) -> PreferenceModel:
        """The same loss of a replica of the model (language_model.py)."""
        return PreferenceModel(self.model.replica(), self.beta, self.label_smoothing)

    def forward(self, ids, targets, rng_key=None):
        """ids and targets (N, 2, T) int, chosen before rejected  ->  log-probabilities (N, 2) in
        nats.

        Targets of -100 do not count: those of the prompt and the padding. rng_key: see
        LanguageModel.loss.
        """
        return self._scored(ids, targets, rng_key)[0]

    def loss(self, ids, targets, reference, rng_key=None, count=None):
        """ids and targets (N, 2, T); reference (N, 2), the reference's log-probabilities  ->  the
        mean DPO loss (0-d); `backward()` may follow.

        count: what the sum over pairs is divided by, by default N.
        """
        logp, scored = self._scored(ids, targets, rng_key)  # (N, 2)
        reference = to_device(reference, device_of(logp))
        answers = logp[:, CHOSEN], logp[:, REJECTED], reference[:, CHOSEN], reference[:, REJECTED]
        self.figures = _sums(dpo_rewards(*answers, self.beta), logp)
        smoothing = self.label_smoothing if self.training else 0.0
        loss, saved = dpo_forward(*answers, self.beta, smoothing, count)
        self.save_for_backward((saved, scored))
        return loss

    def backward(self) -> None:
        """After `loss`: add its gradient to `.grad` of every parameter of the model."""
        saved, scored = self.take_saved()
        # forward: loss, saved = dpo_forward(*answers, self.beta, smoothing, count)
        # forward: logp[:, CHOSEN], logp[:, REJECTED]
        dchosen, drejected = dpo_backward(1.0, saved)
        dlogp = array_module(dchosen).stack([dchosen, drejected], axis=1)  # (N, 2)
        # forward: logp, scored = self._scored(ids, targets, rng_key)
        self.model.backward_log_probabilities(dlogp.reshape(-1), scored)

    def _scored(self, ids, targets, rng_key):
        """Log-probabilities (N, 2), and what their backward needs."""
        if ids.ndim != 3 or ids.shape[1] != 2 or ids.shape != targets.shape:
            raise UserError(f"pairs have ids and targets of shape (N, 2, T), not {ids.shape} and {targets.shape}")
        N, _, T = ids.shape
        logp, scored = self.model.log_probabilities(ids.reshape(2 * N, T), targets.reshape(2 * N, T), rng_key)
        return logp.reshape(N, 2), scored


def read_figures(sums, pairs: int) -> PairFigures:
    """The means over so many pairs, of `PreferenceModel.figures` or of a sum of several of them."""
    return PairFigures(*(float(total) / pairs for total in sums))


def _sums(rewards, logp):
    """PairFigures as sums over N pairs, in one array: those of several parts of a batch are
    added.
    """
    chosen, rejected = rewards.chosen.sum(), rewards.rejected.sum()
    sums = [len(logp) * ordered_share(rewards), chosen - rejected, chosen, rejected, *logp.sum(axis=0)]
    return array_module(logp).stack(sums)
