"""Cases of losses: parts of a larger one, in chunks, with a head that does not learn."""

from __future__ import annotations

import numpy as np

from minillm.checks.case import Case, at, constants
from minillm.checks.cases_loss import (
    cross_entropy_inputs,
    linear_cross_entropy_inputs,
    sequence_log_probability_inputs,
)
from minillm.layers.layer import Layer, Parameter


class PartOfALoss(Layer):
    """A share of a loss, as if others were added to it: backward gets this share."""

    def __init__(self, loss: Layer, share: float):
        self.of, self.share = loss, share

    def forward(self, x, targets):
        return self.share * self.of.forward(x, targets)

    def backward(self, dloss):
        return self.of.backward(self.share * dloss)


def frozen(layer: Layer) -> Layer:
    """The layer with a weight that does not learn."""
    layer.weight.frozen = True
    return layer


HEAD, SEQUENCES = "minillm.layers.linear_cross_entropy", "minillm.layers.sequence_log_probability"


def _head_forward(op, a):
    written_over = np.ones_like(a.weight)
    with constants(op, HEAD, STRIP_ROWS=4):
        loss, saved = op.linear_cross_entropy_forward(a.x, a.weight, a.targets, chunk_rows=1, dweight=written_over)
    return 2 * loss, saved


def _sequences_forward(op, a):
    return op.sequence_log_probability_forward(a.x, a.weight, a.targets, chunk_rows=2)


def _sequences_backward(op, a, saved):
    with constants(op, SEQUENCES, STRIP_ROWS=4):
        if not a.added:
            return op.sequence_log_probability_backward(a.dlogp, saved)
        buffer = 2 * np.ones_like(a.weight)
        dx, dweight = op.sequence_log_probability_backward(a.dlogp, saved, buffer.copy())
    return dx, dweight - buffer


def _padded_forward(op, a):
    """The weight has rows of zeros below those of the vocabulary."""
    weight = np.concatenate([a.weight, np.zeros_like(a.weight)])
    return op.sequence_log_probability_forward(a.x, weight, a.targets, vocabulary=len(a.weight))


LOSSES = (
    Case(
        "part of a cross-entropy",
        home="minillm.layers.cross_entropy",
        inputs=cross_entropy_inputs,
        layer=lambda module, a: PartOfALoss(module.CrossEntropy(), a.dloss),
        layer_inputs=("logits", "targets"),
        gradcheck=[at(2, 3, 6, label="twice the loss", dloss=2.0), at(2, 3, 6, label="none of it", dloss=0.0)],
    ),
    Case(
        "part of a loss, in chunks",
        home=HEAD,
        inputs=linear_cross_entropy_inputs,
        forward=_head_forward,
        backward=lambda op, a, saved: op.linear_cross_entropy_backward(2 * a.dloss, saved),
        outputs=("loss",),
        differentiated=("x", "weight"),
        gradcheck=[at(5, 3, 11, ignored=(3,))],
    ),
    Case(
        "part of a loss, a frozen head",
        home=HEAD,
        inputs=linear_cross_entropy_inputs,
        layer=lambda module, a: PartOfALoss(frozen(module.LinearCrossEntropy(Parameter(a.weight))), 0.0),
        layer_inputs=("x", "targets"),
        gradcheck=[at(2, 3, 4, 6)],
    ),
    Case(
        "log-probabilities in chunks",
        home=SEQUENCES,
        inputs=lambda rng, *shape, added=False: (
            sequence_log_probability_inputs(rng, *shape, prompt=1) | dict(added=added)
        ),
        forward=_sequences_forward,
        backward=_sequences_backward,
        outputs=("logp",),
        differentiated=("x", "weight"),
        gradcheck=[at(2, 5, 3, 11), at(2, 5, 3, 11, label="added to a gradient", added=True)],
    ),
    Case(
        "log-probabilities, a padded head",
        home=SEQUENCES,
        inputs=sequence_log_probability_inputs,
        forward=_padded_forward,
        backward=lambda op, a, saved: op.sequence_log_probability_backward(a.dlogp, saved)[0],
        outputs=("logp",),
        differentiated=("x",),
        gradcheck=[at(2, 4, 4, 6, prompt=1)],
    ),
    Case(
        "log-probabilities, a frozen head",
        home=SEQUENCES,
        inputs=sequence_log_probability_inputs,
        layer=lambda module, a: frozen(module.SequenceLogProbability(Parameter(a.weight))),
        layer_inputs=("x", "targets"),
        gradcheck=[at(2, 4, 4, 6, prompt=1)],
    ),
    Case(
        "log-probabilities of logits",
        home=SEQUENCES,
        inputs=sequence_log_probability_inputs,
        layer=lambda module, a: module.SequenceLogProbability(None),
        layer_inputs=("x", "targets"),
        gradcheck=[at(2, 4, 6, 6, prompt=1)],
    ),
    Case(
        "part of a DPO loss",
        home="minillm.layers.dpo",
        inputs=lambda rng, pairs: dict(
            zip(("chosen", "rejected", "first", "second"), rng.normal(size=(4, pairs)) - 20)
        ),
        forward=lambda op, a: _halved(*op.dpo_forward(a.chosen, a.rejected, a.first, a.second, 0.7)),
        backward=lambda op, a, saved: op.dpo_backward(0.5 * a.dloss, saved),
        outputs=("loss",),
        differentiated=("chosen", "rejected"),
        gradcheck=[at(5)],
    ),
)


def _halved(loss, saved):
    return 0.5 * loss, saved
