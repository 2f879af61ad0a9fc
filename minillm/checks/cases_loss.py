"""The cases of the loss: cross-entropy, and the language-model head fused with it."""

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
