"""How many operations a pass asks for: those of matrix products, a multiplication and the addition after it counted as two.

That is how the field counts (Kaplan et al., "Scaling Laws for Neural Language Models", 2020, section 2.1; Chowdhery et al.,
"PaLM", 2022, appendix B): norms, activations, softmax and sums are left out, they grow with T C and not with T C^2.

A product (N, I) @ (I, O) has N I O multiply-adds. Its backward is two products of the same size, one for dx and one for dw, so
a matrix that N tokens pass through costs 2 N I O forward and 4 N I O backward; a frozen weight has no dw. Hence the rule of
thumb "6 x parameters x tokens" for a training step.

Attention is counted causally: only pairs (i, j) with j <= i, T (T + 1) / 2 for each head. Two products forward (S = q k^T and
P v), four backward (dv, dP, dq, dk). What is really computed is somewhat more, because the queries are taken in blocks; and a
kernel that keeps no probabilities computes S once more.
"""

from __future__ import annotations

import inspect
import math


def count_flops(operation: str, arguments: inspect.BoundArguments, learns: bool = True) -> tuple[int, int]:
    """(forward, backward) for one call of `NAME_forward` with these arguments; (0, 0) for one without matrix products.

    learns: the weight is not frozen.
    """
    formula = FORMULAS.get(operation)
    return (0, 0) if formula is None else formula(learns=learns, **arguments.arguments)


def _linear(x, weight, learns, **others):
    """x (..., I), weight (I, O) or (O, I)"""
    product = 2 * _rows(x) * weight.size  # N I O
    return product, (1 + learns) * product


def _attention(q, causal=True, window=None, **others):
    """q (B, H, T, D)"""
    batch, heads, time, width = q.shape
    pairs = sum(min(i + 1, window or time) for i in range(time)) if causal else time * time
    product = 2 * batch * heads * pairs * width
    return 2 * product, 4 * product


def _linear_cross_entropy(x, weight, learns, **others):
    """x (..., C), weight (V, C): the logits, then dx and dweight, which forward computes in the same visit"""
    return _linear(x, weight, learns)


def _lora(x, a, b, **others):
    """x (..., I), a (r, I), b (O, r)"""
    product = 2 * _rows(x) * (a.size + b.size)
    return product, 2 * product


def _rows(x) -> int:
    return math.prod(x.shape[:-1])


FORMULAS = {
    "linear": _linear,
    "attention": _attention,
    "linear_cross_entropy": _linear_cross_entropy,
    "lora": _lora,
}
