"""Penalties: lower the logits of tokens that already occurred.

Each is a function of logits (B, V) float32 and of `seen`, the tokens so far of each row: B
sequences of ids. It returns logits (B, V) and does not change its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from minillm.errors import UserError

USUAL_BREAKERS = ("\n", ":", '"', "*")  # texts over which no repetition of DRY reaches
LARGEST_PENALTY = 1e30  # keeps penalties that grow exponentially finite


def repetition_penalty(logits, seen: list[Sequence[int]], penalty: float):
    """Divide positive logits of seen tokens by the penalty, and multiply negative ones by it.

    A penalty above 1 makes seen tokens less likely, 1 changes nothing. Source: Keskar et al.,
    "CTRL" (2019), section 4.1, with the change made in transformers: CTRL divides negative logits
    as well, which makes those tokens more likely.

    >>> repetition_penalty(np.array([[1.0, 3.0, -2.0, 2.0]], np.float32), [[1, 2, 1]], 2.0)
    array([[ 1. ,  1.5, -4. ,  2. ]], dtype=float32)
    """
    if penalty == 1:
        return logits
    changed = logits.copy()
    for row, ids in zip(changed, seen):
        tokens = np.unique(np.asarray(ids, np.int64))
        values = row[tokens].astype(np.float64)
        with np.errstate(over="ignore"):
            row[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return changed


def presence_penalty(logits, seen: list[Sequence[int]], penalty: float):
    """Subtract the penalty from the logits of seen tokens, once however often they were seen.

    A penalty of 0 changes nothing. Source: OpenAI's API reference, "Frequency and presence
    penalties".

    >>> presence_penalty(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), [[1, 2, 1]], 0.5)
    array([[1. , 2.5, 1.5, 2. ]], dtype=float32)
    """
    return _lowered(logits, seen, lambda counts: penalty * np.ones_like(counts)) if penalty else logits


def frequency_penalty(logits, seen: list[Sequence[int]], penalty: float):
    """Subtract the penalty from a token's logit for each time that it was seen. Source: as above.

    >>> frequency_penalty(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), [[1, 2, 1]], 0.5)
    array([[1. , 2. , 1.5, 2. ]], dtype=float32)
    """
    return _lowered(logits, seen, lambda counts: penalty * counts) if penalty else logits


def no_repeat_ngram(logits, seen: list[Sequence[int]], size: int):
    """Ban (-inf) the tokens that would complete an n-gram of this size that is already in the text.

    If this would ban all tokens of a row, the row is not changed. A size of 0 bans nothing. Source:
    Paulus et al., "A Deep Reinforced Model for Abstractive Summarization" (2017), section 2.5.

    >>> no_repeat_ngram(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), [[0, 1, 2, 0]], 2)
    array([[  1., -inf,   2.,   2.]], dtype=float32)
    """
    if not size:
        return logits
    changed = logits.copy()
    for row, before, ids in zip(changed, logits, seen):
        row[_followers(np.asarray(ids, np.int64), size - 1)] = -np.inf
        if not np.any(row > -np.inf):
            row[:] = before
    return changed


def dry_penalty(
    logits,
    seen: list[Sequence[int]],
    multiplier: float,
    base: float = 1.75,
    allowed_length: int = 2,
    breakers: Collection[int] = (),
):
    """DRY, "don't repeat yourself": penalise tokens that would continue a repetition, longer ones
    more.

    If the last n tokens also occur earlier in the text, the token that followed them there would
    make it a repetition of n + 1. Its logit is lowered by multiplier * base^(n - allowed_length),
    for the largest such n, if n >= allowed_length. A multiplier of 0 changes nothing. A repetition
    does not extend over a breaker (such as a line end or a quotation mark), and breakers are not
    penalised. Source: p-e-w, "DRY: A modern repetition penalty that reliably prevents looping"
    (text-generation-webui, pull request 5677, 2024), and its form in llama.cpp.

    >>> dry_penalty(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), [[0, 1, 3, 0, 1]], 0.8)
    array([[1. , 3. , 2. , 1.2]], dtype=float32)
    """
    if not multiplier:
        return logits
    changed = logits.copy()
    breaking = np.array(list(breakers), np.int64)
    for row, ids in zip(changed, seen):
        for token, length in _repetitions(np.asarray(ids, np.int64), breaking).items():
            if length >= allowed_length:
                row[token] -= _power(multiplier, base, length - allowed_length)
    return changed


# ------------------------------------------------------------------------------------------------------------- helpers


def _lowered(logits, seen, amount):
    changed = logits.copy()
    for row, ids in zip(changed, seen):
        tokens, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
        with np.errstate(over="ignore", invalid="ignore"):
            row[tokens] -= amount(counts).astype(np.float32)
    return changed


def _followers(ids, length: int) -> np.ndarray:
    """The tokens that followed earlier occurrences of the last `length` tokens.

    >>> _followers(np.array([0, 1, 2, 0, 1]), 2).tolist()
    [2]
    """
    if len(ids) < length + 1:
        return ids[:0]
    windows = np.lib.stride_tricks.sliding_window_view(ids, length + 1)
    return windows[(windows[:, :length] == ids[len(ids) - length :]).all(axis=1), length]


def _repetitions(ids, breakers) -> dict[int, int]:
    """Token -> the length of the longest repetition that it would continue.

    >>> _repetitions(np.array([0, 1, 3, 0, 1]), np.array([]))
    {3: 2}
    """
    last = len(ids) - 1
    is_breaker = np.isin(ids, breakers)
    # a repetition begins after the last breaker
    limit = last - np.flatnonzero(is_breaker)[-1] if is_breaker.any() else last
    lengths = np.zeros(max(last, 0), np.int64)  # of the repetition whose earlier copy ends at that place
    ends = np.arange(last)
    for length in range(1, limit + 1):
        ends = ends[ends >= length - 1]
        ends = ends[ids[ends - (length - 1)] == ids[last - (length - 1)]]
        if not len(ends):
            break
        lengths[ends] = length
    longest: dict[int, int] = {}
    for end in np.flatnonzero((lengths > 0) & ~is_breaker[1:]):
        follower = int(ids[end + 1])
        longest[follower] = max(longest.get(follower, 0), int(lengths[end]))
    return longest


def _power(multiplier: float, base: float, exponent: int) -> float:
    """multiplier * base^exponent, at most LARGEST_PENALTY."""
    if exponent * math.log(base) + math.log(multiplier) > math.log(LARGEST_PENALTY):
        return LARGEST_PENALTY
    return multiplier * base**exponent


def breaker_tokens(tokenizer, strings: Sequence[str]) -> tuple[int, ...]:
    """The ids whose text contains one of the strings: breakers for `dry_penalty`.

    Raises UserError for an empty string.
    """
    if not strings:
        return ()
    if not all(strings):
        raise UserError(
            "a breaker of DRY is empty: every token contains it, so that DRY would do nothing; leave it out"
        )
    texts = ((index, tokenizer.piece(index)) for index in range(tokenizer.vocab_size))
    return tuple(index for index, text in texts if any(string in text for string in strings))
