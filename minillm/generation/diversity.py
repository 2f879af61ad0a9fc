"""Measures of variety: they tell a text in a loop from a varied one.

Both count n-grams, runs of n neighbouring tokens; a text of T tokens has T - n + 1 of them.

    distinct-n = different n-grams / n-grams          1: no n-gram occurs twice
    repetition rate = n-grams that occurred before in the same text / n-grams

Sources: distinct-n: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation
Models" (2016), section 5. That the likeliest texts repeat themselves word for word: Holtzman et
al., "The Curious Case of Neural Text Degeneration" (2020). Within one text an n-gram is either new
or a repetition, so for the same n the two add up to 1. Distinct-1, 2 and 3 measure words and
phrases, the rate of 4-grams, the default, loops. A longer text has a lower distinct-n and a higher
repetition rate, so only texts of equal length can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence


def distinct(ids: Sequence[int], n: int) -> float:
    """Distinct-n of a text's ids, in (0, 1]; 1 for a text of fewer than n tokens.

    >>> distinct([7, 8, 7, 8, 7], 1)  # 7, 8 among 5
    0.4
    >>> distinct([7, 8, 7, 8, 7], 2)  # 78, 87 among 78 87 78 87
    0.5
    """
    grams = _grams(ids, n)
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition_rate(ids: Sequence[int], n: int = 4) -> float:
    """The share of n-grams that occurred before in the same text, in [0, 1); 0 for a text of fewer
    than n tokens.

    >>> repetition_rate([1, 2, 3, 1, 2, 3, 1, 2, 3], n=2)  # 12 23 31 are new, 12 23 31 12 23 are not
    0.625
    """
    seen, repeated = set(), 0
    grams = _grams(ids, n)
    for gram in grams:
        repeated += gram in seen
        seen.add(gram)
    return repeated / len(grams) if grams else 0.0


def _grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """All runs of n tokens, in order. Raises ValueError for n below 1."""
    if n < 1:
        raise ValueError(f"n is {n}: an n-gram has at least 1 token")
    ids = [int(token) for token in ids]
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
