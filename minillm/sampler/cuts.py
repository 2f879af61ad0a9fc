"""Which tokens may be chosen at all."""

from __future__ import annotations

import numpy as np


def top_k_cut(logits, k: int | None):
    """Keep the k largest logits of each row, exactly k; ties go to the lowest id. The rest becomes -inf.

    logits (B, V) float32  ->  (B, V). A k of None, 0 or >= V cuts nothing. Source: Fan, Lewis, Dauphin, "Hierarchical
    Neural Story Generation" (2018), section 5.1.

    >>> top_k_cut(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 2)
    array([[-inf,   3.,   2., -inf]], dtype=float32)
    """
    rows, vocabulary = logits.shape
    if not k or k >= vocabulary:
        return logits
    threshold = np.partition(logits, vocabulary - k, axis=-1)[:, vocabulary - k, None]  # the k-th largest
    above = logits > threshold
    tied = logits == threshold
    room = k - above.sum(axis=-1, keepdims=True)  # how many of those equal to the threshold are kept
    kept = above | (tied & (np.cumsum(tied, axis=-1) <= room))
    return np.where(kept, logits, np.float32(-np.inf))


def top_p_cut(logits, p: float | None):
    """Keep the smallest set of likeliest tokens that together have the probability p; ties go to the lowest id.

    logits (B, V) float32  ->  (B, V). A p of None or 1 cuts nothing. Source: Holtzman et al., "The Curious Case of Neural
    Text Degeneration" (2020), section 3.1 (nucleus sampling).

    >>> top_p_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.6).round(2)
    array([[ -inf, -0.92, -1.2 ,  -inf]], dtype=float32)
    """
    if p is None or p >= 1:
        return logits
    probabilities = _softmax(logits)
    return _kept_up_to_mass(logits, probabilities, -probabilities, p)


def min_p_cut(logits, p: float | None):
    """Keep the tokens that are at least p times as likely as the likeliest. A p of None or 0 cuts nothing.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs" (2024).

    >>> min_p_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.5).round(2)
    array([[ -inf, -0.92, -1.2 , -1.61]], dtype=float32)
    """
    if not p:
        return logits
    probabilities = _softmax(logits)
    kept = probabilities >= p * probabilities.max(axis=-1, keepdims=True) * (1 - ROUNDING)
    return np.where(kept, logits, np.float32(-np.inf))


def typical_cut(logits, p: float | None):
    """Keep the tokens whose surprise is nearest to the expected one, as many as have the probability p together.

    The surprise of a token is -log p_i, and the expected one the entropy H; tokens are taken in the order of
    |-log p_i - H|, ties to the lowest id. None or 1 cuts nothing. Source: Meister et al., "Locally Typical Sampling" (2023).

    >>> typical_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.4).round(2)
    array([[ -inf,  -inf, -1.2 , -1.61]], dtype=float32)
    """
    if p is None or p >= 1:
        return logits
    probabilities = _softmax(logits)
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    entropy = (probabilities * surprise).sum(axis=-1, keepdims=True)
    distance = np.where(probabilities > 0, np.abs(surprise - entropy), np.inf)
    return _kept_up_to_mass(logits, probabilities, distance, p)


def epsilon_cut(logits, epsilon: float | None):
    """Keep the tokens of at least the probability epsilon, and the likeliest in any case. None or 0 cuts nothing.

    Source: Hewitt, Manning, Liang, "Truncation Sampling as Language Model Desmoothing" (2022), section 4.1.

    >>> epsilon_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.25).round(2)
    array([[ -inf, -0.92, -1.2 ,  -inf]], dtype=float32)
    """
    return _kept_above(logits, epsilon) if epsilon else logits


def eta_cut(logits, epsilon: float | None):
    """Keep the tokens of at least the probability min(epsilon, sqrt(epsilon) exp(-H)), H the entropy, and the likeliest.

    Where the model is unsure (H large) less likely tokens stay. None or 0 cuts nothing. Source: Hewitt et al. (2022),
    section 4.2.

    >>> eta_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.25).round(2)
    array([[ -inf, -0.92, -1.2 , -1.61]], dtype=float32)
    """
    if not epsilon:
        return logits
    p = _softmax(logits)
    entropy = -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=-1, keepdims=True)
    return _kept_above(logits, np.minimum(epsilon, np.sqrt(epsilon) * np.exp(-entropy)))


def top_n_sigma_cut(logits, n: float | None):
    """Keep the logits that are at most n standard deviations below the largest. None or 0 cuts nothing.

    The deviation is that of the logits that are not -inf. Source: Tang et al., "Top-n-sigma: Not All Logits Are You Need"
    (2024).

    >>> top_n_sigma_cut(np.array([[0.0, 4.0, 3.0, 1.0]], np.float32), 1.0)
    array([[-inf,   4.,   3., -inf]], dtype=float32)
    """
    if not n:
        return logits
    finite = np.isfinite(logits)
    deviation = np.array([[row[keep].std(dtype=np.float64)] for row, keep in zip(logits, finite)])
    return np.where(logits >= logits.max(axis=-1, keepdims=True) - n * deviation, logits, np.float32(-np.inf))


ROUNDING = 1e-7  # a probability is not cut because the last digit of a quotient fell the other way
FEW = 64  # likeliest tokens that are looked at first


def _softmax(logits) -> np.ndarray:
    """Probabilities in float64."""
    p = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return p / p.sum(axis=-1, keepdims=True)


def _kept_above(logits, threshold):
    probabilities = _softmax(logits)
    kept = probabilities >= threshold * (1 - ROUNDING)
    kept[np.arange(len(logits)), logits.argmax(axis=-1)] = True
    return np.where(kept, logits, np.float32(-np.inf))


def _kept_up_to_mass(logits, probabilities, order, mass):
    """Keep each row's first tokens by `order`, ties to the lowest id, up to the one with which their sum reaches `mass`."""
    cut = np.full_like(logits, -np.inf)
    for row, p, key in zip(range(len(logits)), probabilities, order):
        first = _first_up_to_mass(p, key, mass)
        cut[row, first] = logits[row, first]
    return cut


def _first_up_to_mass(p, key, mass) -> np.ndarray:
    """The ids. A few are sorted, and eight times as many if these are not enough: the whole vocabulary hardly ever."""
    count = FEW
    while True:
        if count >= len(p):
            ids = np.arange(len(p))
        else:
            limit = np.partition(key, count)[count]
            ids = np.flatnonzero(key < limit)  # all that come before the rest, whatever the ties
        ids = ids[np.argsort(key[ids], kind="stable")]
        total = np.cumsum(p[ids])
        enough = np.searchsorted(total, mass * (1 - ROUNDING))
        if enough < len(ids) or count >= len(p):
            return ids[: enough + 1]
        count *= 8
