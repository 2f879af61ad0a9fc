"""Which tokens may be chosen at all.

Each cut is a function from logits (B, V) float32 to logits (B, V), where those that are cut are -inf. A cut looks at what the
ones before it have left, as if nothing else existed, and leaves at least one token of each row.
"""

from __future__ import annotations

import numpy as np

from minillm.sampler.probability import entropy, softmax

TIES = ("lowest", "all")


def top_k_cut(logits, k: int | None, ties: str = "lowest"):
    """Keep the k largest logits of each row; a k of None, 0 or >= V cuts nothing.

    ties: of several that are equal to the k-th, those of the lowest ids are kept, so that it is exactly k; with "all" every
    one of them, as transformers does. Source: Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation" (2018), section
    5.1.

    >>> top_k_cut(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 2)
    array([[-inf,   3.,   2., -inf]], dtype=float32)
    >>> top_k_cut(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 2, ties="all")
    array([[-inf,   3.,   2.,   2.]], dtype=float32)
    """
    if not k or k >= logits.shape[1]:
        return logits
    ids = largest(logits, k)
    values = np.take_along_axis(logits, ids, axis=1)
    if ties == "all":
        return np.where(logits >= values.min(axis=1, keepdims=True), logits, np.float32(-np.inf))
    cut = np.full_like(logits, -np.inf)
    np.put_along_axis(cut, ids, values, axis=1)
    return cut


def largest(logits, k: int) -> np.ndarray:
    """The ids of the k largest logits of each row, in rising order; ties go to the lowest id. logits (B, V)  ->  (B, k)

    The row is read as blocks first. The k-th largest of their maxima is not above the k-th largest logit (k blocks have one
    that large), and few logits reach it: only these are looked at closely. For 64 rows of 50,257 logits and k = 50 this
    takes 6 ms, a partition of whole rows 19 ms.

    >>> largest(np.array([[1.0, 3.0, 2.0, 2.0]]), 2)
    array([[1, 2]])
    """
    rows, vocabulary = logits.shape
    width = vocabulary // (BLOCKS_FOR_ONE * k)
    if width > 1:
        blocks = vocabulary // width
        maxima = logits[:, : blocks * width].reshape(rows, blocks, width).max(axis=2)
        bounds = np.partition(maxima, blocks - k, axis=1)[:, blocks - k]
    else:
        bounds = np.full(rows, -np.inf)
    return np.array([_largest(row, k, bound) for row, bound in zip(logits, bounds)])


def _largest(row, k, bound) -> np.ndarray:
    """The same for one row, of which at least k are at least `bound`."""
    candidates = np.flatnonzero(row >= bound)
    values = row[candidates]
    threshold = np.partition(values, len(values) - k)[len(values) - k]  # the k-th largest
    reached = values >= threshold
    surplus = np.count_nonzero(reached) - k
    if surplus:  # of those that are equal to it the last ones go
        tied = np.flatnonzero(values == threshold)
        reached[tied[len(tied) - surplus :]] = False
    return candidates[reached]


def top_p_cut(logits, p: float | None):
    """Keep the smallest set of likeliest tokens that together have the probability p; ties go to the lowest id.

    A p of None or 1 cuts nothing. Source: Holtzman et al., "The Curious Case of Neural
    Text Degeneration" (2020), section 3.1 (nucleus sampling).

    >>> top_p_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.6).round(2)
    array([[ -inf, -0.92, -1.2 ,  -inf]], dtype=float32)
    """
    if p is None or p >= 1:
        return logits
    probabilities = softmax(logits)
    return _kept_up_to_mass(logits, probabilities, -probabilities, p)


def min_p_cut(logits, p: float | None):
    """Keep the tokens that are at least p times as likely as the likeliest. A p of None or 0 cuts nothing.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs" (2024).

    >>> min_p_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.5).round(2)
    array([[ -inf, -0.92, -1.2 , -1.61]], dtype=float32)
    """
    if not p:
        return logits
    probabilities = softmax(logits)
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
    probabilities = softmax(logits)
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    distance = np.where(probabilities > 0, np.abs(surprise - entropy(probabilities)[:, None]), np.inf)
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
    h = entropy(softmax(logits))[:, None]
    return _kept_above(logits, np.minimum(epsilon, np.sqrt(epsilon) * np.exp(-h)))


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


def xtc_cut(logits, threshold: float, excluding):
    """XTC, "exclude top choices": of the tokens that are at least as likely as the threshold only the least likely stays.

    excluding (B,) bool: in which rows this is done; the sampler tosses a coin for each. Where fewer than two reach the
    threshold nothing is cut; of equally likely ones the highest id stays. Source: p-e-w, "Exclude Top Choices (XTC): A sampler
    that boosts creativity, breaks writing cliches, and inhibits non-verbatim repetition" (text-generation-webui, pull
    request 6335, 2024).

    >>> xtc_cut(np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)), 0.25, [True]).round(2)
    array([[-2.3 ,  -inf, -1.2 , -1.61]], dtype=float32)
    """
    if not np.any(excluding):
        return logits
    cut = logits.copy()
    for row in np.flatnonzero(excluding):
        p = softmax(logits[row : row + 1])[0]
        top = np.flatnonzero(p >= threshold * (1 - ROUNDING))
        if len(top) > 1:
            stays = top[len(top) - 1 - np.argmin(p[top][::-1])]
            cut[row, top[top != stays]] = -np.inf
    return cut


BLOCKS_FOR_ONE = 8  # blocks for each of the k tokens
ROUNDING = 1e-7  # a probability is not cut because the last digit of a quotient fell the other way
FEW = 64  # likeliest tokens that are looked at first


def _kept_above(logits, threshold):
    probabilities = softmax(logits)
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
