"""The cases of the losses: cross-entropy, the language-model head fused with it, and DPO."""

from __future__ import annotations

import numpy as np

from minillm.checks.case import Case, Kernel, at
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.layers.layer import Parameter


def cross_entropy_inputs(rng, *shape, ignored=(), ramp=False, masked=False, label_smoothing=0.0, dloss=1.0):
    """logits (..., V) and their targets, of which those at `ignored` are no tokens.

    ramp: later logits are larger, so that a running maximum changes often. masked: of row 0 a third
    is -inf.
    """
    vocabulary = shape[-1]
    targets = rng.integers(vocabulary, size=shape[:-1])
    targets.reshape(-1)[list(ignored)] = IGNORE_INDEX
    logits = 3 * rng.normal(size=shape) + (np.linspace(0, 20, vocabulary) if ramp else 0)
    if masked:
        logits[0, : vocabulary // 3] = -np.inf
        targets[0] = vocabulary - 1
    return dict(logits=logits, targets=targets, label_smoothing=label_smoothing, dloss=dloss)


CROSS_ENTROPY = Case(
    "cross_entropy",
    inputs=cross_entropy_inputs,
    forward=lambda op, a: op.cross_entropy_forward(a.logits, a.targets, label_smoothing=a.label_smoothing),
    backward=lambda op, a, saved: op.cross_entropy_backward(a.dloss, saved),
    outputs=("loss",),
    differentiated=("logits",),
    low_precision=("logits",),
    layer=lambda module, a: module.CrossEntropy(label_smoothing=a.label_smoothing),
    layer_inputs=("logits", "targets"),
    kernel=(Kernel("cross_entropy", "minillm.kernels.cross_entropy", "the loss of logits, and its gradient"),),
    dimensions=("rows", "vocabulary"),
    gradcheck=[
        at(2, 3, 6, label="an ignored target", ignored=(4,)),
        at(2, 3, 6, label="label smoothing", ignored=(4,), label_smoothing=0.1),
    ],
    kernels=[
        at(1, 2),
        at(5, 65, ignored=(1, 4), ramp=True, masked=True),
        at(9, 1000, ignored=(8,), ramp=True, label_smoothing=0.1, dloss=0.25),
        at(2, 5003, ramp=True, masked=True),
    ],
    simulate=(16, 1000),
    benchmark=[at(512, 50257), at(4096, 50257), at(16384, 256)],
)


def linear_cross_entropy_inputs(rng, *shape, ignored=(), label_smoothing=0.0, dtype="float64", scale=1.0):
    """x (..., C), the head's weight (V, C), targets; the size is (..., C, V)."""
    *leading, width, vocabulary = shape
    x = rng.standard_normal((*leading, width), dtype=dtype)
    weight = rng.standard_normal((vocabulary, width), dtype=dtype)
    weight *= scale
    targets = rng.integers(vocabulary, size=leading)
    targets.reshape(-1)[list(ignored)] = IGNORE_INDEX
    return dict(x=x, weight=weight, targets=targets, label_smoothing=label_smoothing, dloss=1.0)


LINEAR_CROSS_ENTROPY = Case(
    "linear_cross_entropy",
    inputs=linear_cross_entropy_inputs,
    forward=lambda op, a: op.linear_cross_entropy_forward(a.x, a.weight, a.targets, label_smoothing=a.label_smoothing),
    backward=lambda op, a, saved: op.linear_cross_entropy_backward(a.dloss, saved),
    outputs=("loss",),
    differentiated=("x", "weight"),
    layer=lambda module, a: module.LinearCrossEntropy(Parameter(a.weight), label_smoothing=a.label_smoothing),
    layer_inputs=("x", "targets"),
    dimensions=("rows", "width", "vocabulary"),
    gradcheck=[
        at(2, 3, 4, 6, ignored=(4,)),
        at(2, 3, 4, 6, label="label smoothing", ignored=(4,), label_smoothing=0.1),
    ],
    benchmark=[at(4096, 768, 50257, dtype="float32", scale=0.02)],
)


def sequence_log_probability_inputs(rng, *shape, prompt=0, padding=0, gap=(), whole_rows=False, scale=1.0):
    """x (B, T, C), the head's weight (V, C), targets, and dlogp (B,); the size is (B, T, C, V).

    prompt, padding: targets at the start of row 0 and at the end of the last row that do not count.
    gap: further ones of row 0. whole_rows: spans are not looked for.
    """
    B, T, C, V = shape
    targets = rng.integers(V, size=(B, T))
    targets[0, :prompt] = targets[-1, T - padding :] = targets[0, list(gap)] = IGNORE_INDEX
    x, weight, dlogp = rng.normal(size=(B, T, C)), scale * rng.normal(size=(V, C)), rng.normal(size=B)
    return dict(x=x, weight=weight, targets=targets, dlogp=dlogp, spans=[(0, T)] * B if whole_rows else None)


SEQUENCE_LOG_PROBABILITY = Case(
    "sequence_log_probability",
    inputs=sequence_log_probability_inputs,
    forward=lambda op, a: op.sequence_log_probability_forward(a.x, a.weight, a.targets, spans=a.spans),
    backward=lambda op, a, saved: op.sequence_log_probability_backward(a.dlogp, saved),
    outputs=("logp",),
    differentiated=("x", "weight"),
    layer=lambda module, a: module.SequenceLogProbability(Parameter(a.weight)),
    layer_inputs=("x", "targets"),
    low_precision=("x",),
    dimensions=("rows", "time", "width", "vocabulary"),
    gradcheck=[
        at(3, 4, 4, 6, label="a prompt and padding", prompt=2, padding=1),
        at(2, 5, 4, 6, label="a row that has no target, gaps in the other", padding=5, gap=(1, 3)),
    ],
    benchmark=[at(8, 512, 768, 50257, prompt=256, padding=128, scale=0.02)],
)


def dpo_inputs(rng, pairs, label_smoothing=0.0, beta=0.7, spread=1.0):
    """Log-probabilities of so many pairs, by the model and by the reference.

    spread: of their numbers.
    """
    names = ("chosen", "rejected", "reference_chosen", "reference_rejected")
    given = {name: -20 + spread * rng.normal(size=pairs) for name in names}
    return given | dict(beta=beta, label_smoothing=label_smoothing, dloss=1.5)


DPO = Case(
    "dpo",
    inputs=dpo_inputs,
    forward=lambda op, a: op.dpo_forward(
        a.chosen, a.rejected, a.reference_chosen, a.reference_rejected, a.beta, a.label_smoothing
    ),
    backward=lambda op, a, saved: op.dpo_backward(a.dloss, saved),
    outputs=("loss",),
    differentiated=("chosen", "rejected"),
    dimensions=("pairs",),
    gradcheck=[at(5), at(4, label="label smoothing", label_smoothing=0.1)],
)
