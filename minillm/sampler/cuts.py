"""Truncation: set the logits of unlikely tokens to -inf.

Each cut is a function from logits (B, V) float32 to logits (B, V). Tokens that an earlier cut has
removed have probability 0 in a later one. At least one token of each row is kept.

Probabilities are compared in float64 with a small tolerance (ROUNDING), so that no token is cut
because of the last digit of a sum. No row is sorted: a cut that needs an order sorts only the
first few tokens of that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from minillm.sampler.probability import shifted_exp, softmax

TIES = ("lowest", "all")


def top_k_cut(logits, k: int | None, ties: str = "lowest"):
    """Keep the k largest logits of each row; a k of None, 0 or >= V cuts nothing. logits (B, V)  ->
    (B, V)

    ties: "lowest" keeps exactly k tokens; of several logits equal to the k-th, those with the
    lowest ids. "all" keeps all of them, as transformers does. Source: Fan, Lewis, Dauphin,
    "Hierarchical Neural Story Generation" (2018), section 5.1.

    >>> top_k_cut(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 2)
    array([[-inf,   3.,   2., -inf]], dtype=float32)
    >>> top_k_cut(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 2, ties="all")
    array([[-inf,   3.,   2.,   2.]], dtype=float32)
    """
    if not k or k >= logits.shape[1]:
        return logits
    ids = top_k_ids(logits, k)
    values = np.take_along_axis(logits, ids, axis=1)
    if ties == "all":
        return np.where(logits >= values.min(axis=1, keepdims=True), logits, np.float32(-np.inf))
    cut = np.full_like(logits, -np.inf)
    np.put_along_axis(cut, ids, values, axis=1)
    return cut


def top_k_ids(logits, k: int) -> np.ndarray:
    """The ids of the k largest logits of each row, in rising order; ties go to the lowest id.
    logits (B, V)  ->  (B, k)

    The logits of a row are divided into blocks. The k-th largest block maximum is not above the
    k-th largest logit, because k blocks contain a logit that large, and few logits reach it: only
    these are partitioned. This takes at most a fifth of the time of a partition of whole rows
    (benchmarks/sampler.py).

    >>> top_k_ids(np.array([[1.0, 3.0, 2.0, 2.0]]), 2)
    array([[1, 2]])
    """
    return np.array([_largest(row, k) for row in logits], np.intp).reshape(len(logits), k)


def _largest(row, k: int) -> np.ndarray:
    """`top_k_ids` for one row."""
    blocks = max(BLOCKS_FOR_ONE * k, LEAST_BLOCKS)
    width = len(row) // blocks
    bound = -np.inf
    if width > 1:
        maxima = row[: blocks * width].reshape(width, blocks).max(axis=0)
        bound = np.partition(maxima, blocks - k)[blocks - k]
    candidates = np.flatnonzero(row >= bound)
    values = row[candidates]
    threshold = np.partition(values, len(values) - k)[len(values) - k]  # the k-th largest
    reached = values >= threshold
    surplus = np.count_nonzero(reached) - k
    if surplus:  # of logits equal to it the last ones are dropped
        tied = np.flatnonzero(values == threshold)
        reached[tied[len(tied) - surplus :]] = False
    return candidates[reached]


def top_p_cut(logits, p: float | None):
    """Keep the likeliest tokens, down to and including the one with which their sum reaches p.
    logits (B, V)  ->  (B, V)

    Ties go to the lowest id. A p of None or 1 cuts nothing. Source: Holtzman et al., "The Curious
    Case of Neural Text Degeneration" (2020), section 3.1 (nucleus sampling).

    >>> top_p_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.6).round(2)
    array([[ -inf, -0.92, -1.2 ,  -inf]], dtype=float32)
    """
    if p is None or p >= 1:
        return logits

    def nucleus(row):
        _, w = shifted_exp(row)
        total = w.sum()
        # At most 1 / share tokens have that share of the probability: few where the model is sure.
        least = row.max() + np.log(total) + np.log(SHARES)
        return _first_up_to(p * total, w, -row, (-least).tolist())

    return _each_row(logits, nucleus)


def min_p_cut(logits, p: float | None):
    """Keep the tokens that are at least p times as likely as the likeliest.

    A p of None or 0 cuts nothing. logits (B, V)  ->  (B, V)

    As logits: l_i >= max(l) + log p. Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling
    for Creative and Coherent LLM Outputs" (2024).

    >>> min_p_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.5).round(2)
    array([[ -inf, -0.92, -1.2 , -1.61]], dtype=float32)
    """
    if not p:
        return logits
    return _kept_from(logits, np.add(logits.max(axis=-1), np.log(p * (1 - ROUNDING)), dtype=np.float64))


def typical_cut(logits, p: float | None, ties: str = "lowest", more: bool = False):
    """Keep the tokens whose surprise is nearest to the expected one, until their sum reaches p.

    The surprise of a token is -log p_i; the expected surprise is the entropy H. Tokens are taken in
    the order of |-log p_i - H|, ties to the lowest id; ties="all" also keeps all that are as near
    as the last one. more: the sum must exceed p. A p of None or 1 cuts nothing. logits (B, V)  ->
    (B, V). Source: Meister et al., "Locally Typical Sampling" (2023).

    >>> typical_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.4).round(2)
    array([[ -inf,  -inf, -1.2 , -1.61]], dtype=float32)
    """
    if p is None or p >= 1:
        return logits

    def typical(row):
        shifted, w = shifted_exp(row)
        total = w.sum()
        # -log p_i - H = (log total - shifted_i) - (log total - expected shifted)
        distance = np.abs(_expected(shifted, w) - shifted)
        ids = _first_up_to((p + 2 * ROUNDING * more) * total, w, distance, NEAR)
        return ids if ties == "lowest" else np.flatnonzero(distance <= distance[ids[-1]])

    return _each_row(logits, typical)


def epsilon_cut(logits, epsilon: float | None, ties: str = "lowest"):
    """Keep tokens with a probability of at least epsilon, and always the likeliest.

    None or 0 cuts nothing. If no token reaches epsilon and several are the likeliest, the one with
    the lowest id is kept, or with ties="all" all of them. logits (B, V)  ->  (B, V). Source:
    Hewitt, Manning, Liang, "Truncation Sampling as Language Model Desmoothing" (2022), section 4.1.

    >>> epsilon_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.25).round(2)
    array([[ -inf, -0.92, -1.2 ,  -inf]], dtype=float32)
    """
    if not epsilon:
        return logits
    return _each_row(logits, lambda row: _likelier(row, shifted_exp(row)[1], epsilon, ties))


def eta_cut(logits, epsilon: float | None, ties: str = "lowest"):
    """Keep tokens with a probability of at least min(epsilon, sqrt(epsilon) exp(-H)), H the
    entropy.

    The likeliest token is always kept. Where the model is unsure (H large) less likely tokens are
    kept as well. None or 0 cuts nothing; ties as in `epsilon_cut`. logits (B, V)  ->  (B, V).
    Source: Hewitt et al. (2022), section 4.2.

    >>> eta_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.25).round(2)
    array([[ -inf, -0.92, -1.2 , -1.61]], dtype=float32)
    """
    if not epsilon:
        return logits

    def eta(row):
        shifted, w = shifted_exp(row)
        h = np.log(w.sum()) - _expected(shifted, w)
        return _likelier(row, w, min(epsilon, np.sqrt(epsilon) * np.exp(-h)), ties)

    return _each_row(logits, eta)


def top_n_sigma_cut(logits, n: float | None):
    """Keep the logits that are at most n standard deviations below the largest. None or 0 cuts
    nothing.

    The deviation is that of the logits that are not -inf. logits (B, V)  ->  (B, V). Source: Tang
    et al., "Top-n-sigma: Not All Logits Are You Need" (2024).

    >>> top_n_sigma_cut(np.array([[0.0, 4.0, 3.0, 1.0]], np.float32), 1.0)
    array([[-inf,   4.,   3., -inf]], dtype=float32)
    """
    if not n:
        return logits
    deviation = [row[row > -np.inf].std(dtype=np.float64) for row in logits]
    with np.errstate(over="ignore"):
        return _kept_from(logits, logits.max(axis=-1) - n * np.array(deviation))


def xtc_cut(logits, threshold: float, excluding):
    """XTC, "exclude top choices": of the tokens that reach the threshold keep only the least
    likely.

    logits (B, V)  ->  (B, V). threshold: a probability. excluding (B,) bool: in which rows this is
    done; the sampler draws it at random. If fewer than two tokens reach the threshold nothing is
    cut; of equally likely ones the highest id is kept.
    Source: p-e-w, "Exclude Top Choices (XTC): A sampler that boosts creativity, breaks writing
    cliches, and inhibits non-verbatim repetition" (text-generation-webui, pull request 6335, 2024).

    >>> xtc_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.25, [True]).round(2)
    array([[-2.3 ,  -inf, -1.2 , -1.61]], dtype=float32)
    """
    if not np.any(excluding):
        return logits
    cut = logits.copy()
    for row in np.flatnonzero(excluding):
        values = logits[row]
        top = np.flatnonzero((softmax(values) >= threshold * (1 - ROUNDING)) & (values > -np.inf))
        if len(top) > 1:
            stays = top[len(top) - 1 - np.argmin(values[top][::-1])]
            cut[row, top[top != stays]] = -np.inf
    return cut


BLOCKS_FOR_ONE = 8  # blocks for each of the k tokens
LEAST_BLOCKS = 512  # minimum, so that the maxima are computed with vector instructions
ROUNDING = 1e-7  # relative tolerance of comparisons of probabilities
SHARES = (
    np.array([1e-2, 1e-3, 1e-4, 1e-5, 0.0]) + np.finfo(float).tiny
)  # of top-p: sort only tokens with at least this share
NEAR = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, np.inf)  # of typical: sort only tokens within this distance, in nats


def _each_row(logits, kept: Callable[[np.ndarray], np.ndarray]):
    """Apply a cut row by row (a row fits a cache); kept(row) returns the ids to keep."""
    cut = np.full_like(logits, -np.inf)
    for row, left in zip(logits, cut):
        ids = kept(row)
        left[ids] = row[ids]
    return cut


def _kept_from(logits, least):
    """Keep the logits that are at least `least`: logits (B, V) float32, least (B,) float64."""
    with np.errstate(over="ignore"):
        rounded = least.astype(np.float32)
    # No float32 is between a float64 and the next float32 above it, so both give the same result;
    # float32 is faster.
    rounded = np.where(rounded < least, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return np.where(logits >= rounded[:, None], logits, np.float32(-np.inf))


def _likelier(row, w, probability: float, ties: str) -> np.ndarray:
    """The ids with at least that probability, or else the likeliest."""
    ids = np.flatnonzero(w >= probability * w.sum() * (1 - ROUNDING))
    if len(ids):
        return ids
    return np.flatnonzero(row == row.max()) if ties == "all" else row.argmax(keepdims=True)


def _expected(shifted, w) -> float:
    """sum_i p_i shifted_i, where 0 times -inf is 0."""
    return np.sum(w * np.maximum(shifted, LEAST_SHIFTED)) / w.sum()


LEAST_SHIFTED = -1000.0  # exp of this is 0


def _first_up_to(mass: float, w, order, bounds: Iterable[float]) -> np.ndarray:
    """The first ids by `order`, up to and including the one with which the sum of their w reaches
    `mass`.

    Ties go to the lowest id. bounds: rising, the last one covers all ids; only the ids below the
    first sufficient bound are sorted.
    """
    for bound in bounds:
        ids = np.flatnonzero(order <= bound)
        if w[ids].sum() >= mass:
            break
    ids = ids[np.argsort(order[ids], kind="stable")]
    return ids[: np.searchsorted(np.cumsum(w[ids]), mass * (1 - ROUNDING)) + 1]
