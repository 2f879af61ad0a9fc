"""Logits and probabilities, in float64: softmax, its logarithm, and the entropy.

layers/softmax.py has the layer, with its derivation and its gradient. Here the sums are NumPy's own
and in float64, so that drawn tokens do not depend on the BLAS or its number of threads.
"""

from __future__ import annotations

import numpy as np


def softmax(logits) -> np.ndarray:
    """exp(l_i) / sum_j exp(l_j). logits (B, V) with at least one finite entry a row  ->  (B, V)

    >>> softmax(np.array([[0.0, np.log(3.0), -np.inf]]))
    array([[0.25, 0.75, 0.  ]])
    """
    _, p = shifted_exp(logits)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def shifted_exp(logits) -> tuple[np.ndarray, np.ndarray]:
    """(l - max(l), exp(l - max(l))) in float64, for logits (V,) or (B, V)."""
    shifted = np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return shifted, np.exp(shifted)


def log_softmax(logits) -> np.ndarray:
    """log softmax(l), in float64. logits (..., V)  ->  (..., V)"""
    shifted, w = shifted_exp(logits)
    return shifted - np.log(w.sum(axis=-1, keepdims=True))


def entropy(p) -> np.ndarray:
    """-sum_i p_i log p_i in nats. Probabilities (..., V)  ->  (...)

    Its exponential is the perplexity of the choice: the number of equally likely tokens with the
    same entropy.

    >>> np.exp(entropy(np.array([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])))
    array([4., 1.])
    """
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1, dtype=np.float64) + 0.0
