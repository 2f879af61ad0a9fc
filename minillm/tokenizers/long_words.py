"""The ids of a word of thousands of bytes, in linear time: windows that overlap by half are merged
all at once (byte_pair_batch.py), and put together where two of them have a token in common.

    word        a b c d e f g h i j k l
    window 0   [ab   c  def     gh]
    window 1            [ef  d? gh  ij  kl]      "gh" is in both: window 0 up to it, window 1 after it
    ids         ab   c  def     gh  ij  kl

Why this is what merging the whole word gives: each two neighbours of the result, t and u, are
neighbours in some window. As long as nothing is merged across their outer ends, the pairs within
t + u are merged in the order in which t + u alone would be, whatever is merged elsewhere in
between: always the smallest rank, the first of several. In that window nothing ever was merged
across the ends of t, u, so t + u alone gives t, u. Now let the whole word's first merge across
the end of any token of the result be the one across t | u. Up to then nothing crossed the outer
ends, so t + u alone would have merged across t | u as well: it did not, so there is no such merge.

Where two windows have no token in common, they are merged as one with a heap (merging.py), and if
that is not enough, so is the whole word: n log n steps.

Measured by benchmarks/tokenizer.py with GPT-2's vocabulary on random letters, one core of an AMD
EPYC, 2026-11-26: 2.14 MB/s for a word of 250 kB and 2.15 for one of 1 MB. The heap alone, in an
earlier run of that day: 0.22 and 0.15.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np

from minillm.tokenizers.byte_pair_batch import PairTable, merge_matrix

LONG_WORD = 1 << 12  # bytes from which on a word is merged so
STEP = 64  # bytes from one window to the next
BLOCK = 1 << 11  # windows that are merged at once


def merge_long_word(data: bytes, table: PairTable, merge_one: Callable[[bytes], list[int]], step: int = STEP):
    """The ids (M,) of one word of more than `step` bytes.

    merge_one: the ids of a part of it.
    """
    starts = np.arange(0, max(len(data) - step, 1), step)
    ends = np.minimum(starts + 2 * step, len(data))
    ids, counts = _merge_windows(data, starts, ends, table, 2 * step)
    for last_try in (False, True):
        window = np.repeat(np.arange(len(starts)), counts)
        begins = _begins(ids, counts, starts, table)
        seams = _seams(starts, window, begins, begins + table.lengths[ids], len(data))
        apart = seams < 0
        if not apart.any():
            edges = np.concatenate([[-1], seams, [len(data)]])
            return ids[(edges[window] < begins) & (begins <= edges[window + 1])]
        if last_try:
            return np.array(merge_one(data), np.int32)
        starts, ends, ids, counts = _joined(data, apart, starts, ends, ids, counts, merge_one)


def _merge_windows(data: bytes, starts, ends, table: PairTable, height: int):
    padded = np.frombuffer(data, np.uint8)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(starts), BLOCK)]
    parts = [merge_matrix(padded, starts[each], (ends - starts)[each], height, table) for each in blocks]
    ids, counts = zip(*parts)
    return np.concatenate(ids), np.concatenate(counts)


def _begins(ids, counts, starts, table: PairTable) -> np.ndarray:
    """Where in the word each token of each window begins."""
    lengths = table.lengths[ids]
    inside = np.cumsum(lengths) - lengths
    return inside + np.repeat(starts - inside[np.cumsum(counts) - counts], counts)


def _seams(starts, window, begins, ends, count: int) -> np.ndarray:
    """Where a token begins that two windows have in common, for each two that follow one another,
    -1 if there is none.

    A window overlaps only the one before and the one after: those of even numbers do not touch.
    """
    end_of = np.full((2, count), -1)
    end_of[window & 1, begins] = ends
    (common,) = np.nonzero((end_of[0] == end_of[1]) & (end_of[0] >= 0))
    seams = np.full(len(starts), -1)
    seams[np.searchsorted(starts, common, side="right") - 1] = common
    return seams[1:]


def _joined(data: bytes, apart, starts, ends, ids, counts, merge_one):
    """Windows with nothing in common as one window: starts, ends, ids, counts."""
    group = np.concatenate([[0], np.cumsum(~apart)])  # of each window
    (first,) = np.nonzero(np.diff(group, prepend=-1))
    (last,) = np.nonzero(np.diff(group, append=-1))
    parts = np.split(ids, np.cumsum(counts)[:-1])
    starts, ends = starts[first], ends[last]
    together = [
        parts[a] if a == b else merge_one(data[start:end]) for a, b, start, end in zip(first, last, starts, ends)
    ]
    return starts, ends, np.fromiter(chain.from_iterable(together), np.int32), np.array(list(map(len, together)))
