"""Logits and probabilities."""

from __future__ import annotations

import numpy as np


def softmax(logits) -> np.ndarray:
    """exp(l_i) / sum_j exp(l_j) of each row, in float64. logits (B, V) with at least one finite entry a row  ->  (B, V)

    >>> softmax(np.array([[0.0, np.log(3.0), -np.inf]]))
    array([[0.25, 0.75, 0.  ]])
    """
    _, p = shifted_exp(logits)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def shifted_exp(logits) -> tuple[np.ndarray, np.ndarray]:
    """(l_i - max(l), exp(l_i - max(l))) in float64, of a row (V,) or of several (B, V)."""
    shifted = np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return shifted, np.exp(shifted)


def log_softmax(logits) -> np.ndarray:
    """log of `softmax`, in float64. (B, V)  ->  (B, V)"""
    shifted, w = shifted_exp(logits)
    return shifted - np.log(w.sum(axis=-1, keepdims=True))


def entropy(p) -> np.ndarray:
    """-sum_i p_i log p_i in nats, of each row. (B, V)  ->  (B,)

    Its exponential is the perplexity of the choice: the number of equally likely tokens among which it would be as hard.

    >>> np.exp(entropy(np.array([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])))
    array([4., 1.])
    """
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1, dtype=np.float64) + 0.0
