"""Merging thousands of words at a time with NumPy: one round of byte_pair.py for all words.

Words of about the same length are the columns of one matrix, a byte in each row. Each round
merges in every column the pair of the smallest rank, the first of several, as `merge_steps` does:

    rank of the pair that begins here      7  .  3  9         the smallest of the column, 3, is in row 2:
    tokens                                 a  b  c  d         a  b  cd  -

`keys` holds ranks and rows in one number, rank first, so that the minimum of a column says both. A
row that was merged into the one above is skipped by two linked lists, `after` and `before`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import chain

import numpy as np

NONE = np.iinfo(np.int32).max
HEIGHTS = (8, 16, 32, 64, 128, 256)  # rows of the matrices
FEW = 32  # words of one height: fewer are merged one by one
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Knuth, "The Art of Computer Programming", 6.4: multiplicative hashing


class PairTable:
    """Ranks of many pairs at once, by a hash table with linear probing.

    merge_of: (a, b) -> rank << token_bits | token. byte_ids: the id of each byte.
    """

    def __init__(self, merge_of: dict[tuple[int, int], int], byte_ids: list[int], token_bits: int):
        count = len(merge_of)
        pairs = np.fromiter(chain.from_iterable(merge_of), np.int64, 2 * count).reshape(-1, 2)
        merges = np.fromiter(merge_of.values(), np.int64, count)
        ranks, tokens = merges >> token_bits, merges & ((1 << token_bits) - 1)
        self.byte_ids = np.array(byte_ids, np.int32)
        self.tokens = np.zeros(int(ranks.max(initial=0)) + 1, np.int32)  # of each rank
        self.tokens[ranks] = tokens
        self.outside = int(max(pairs.max(initial=0), tokens.max(initial=0), self.byte_ids.max())) + 1  # in no pair
        self._merges = pairs.T, tokens
        self._id_bits = self.outside.bit_length()
        self._rank_bits = len(self.tokens).bit_length()
        if 2 * self._id_bits + self._rank_bits > 63:
            raise ValueError(f"{count:,} merges of {self.outside:,} tokens do not fit into 63 bits")
        slot_bits = count.bit_length() + 1
        self._shift = np.uint64(64 - slot_bits)
        self._last_slot = (1 << slot_bits) - 1
        self._slots = np.full(1 << slot_bits, -1, np.int64)  # pair << rank_bits | rank
        self._fill(self._pair(pairs[:, 0], pairs[:, 1]), ranks)
        # most look-ups are of two bytes
        self.of_bytes = self.find(np.repeat(self.byte_ids, 256), np.tile(self.byte_ids, 256))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Bytes of each token, 0 of those that no merge makes."""
        lengths = np.zeros(self.outside, np.int64)
        lengths[self.byte_ids] = 1
        (a, b), tokens = self._merges
        while True:
            both = lengths[a] + lengths[b]
            (new,) = np.nonzero((lengths[a] > 0) & (lengths[b] > 0) & (lengths[tokens] == 0))
            if not len(new):
                return lengths
            lengths[tokens[new]] = both[new]

    def _fill(self, keys: np.ndarray, ranks: np.ndarray) -> None:
        entries, slots = keys << self._rank_bits | ranks, self._slot(keys)
        while len(entries):
            free = self._slots[slots] < 0
            self._slots[slots[free]] = entries[free]
            left = self._slots[slots] != entries
            entries, slots = entries[left], (slots[left] + 1) & self._last_slot

    def find(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The ranks of pairs of ids (N,), (N,) -> (N,), NONE where there is no merge."""
        keys = self._pair(a, b)
        slots = self._slot(keys)
        found = self._slots[slots]
        same = found >> self._rank_bits == keys
        ranks = np.where(same, found & ((1 << self._rank_bits) - 1), NONE).astype(np.int32)
        (others,) = np.nonzero((found >= 0) & ~same)
        while len(others):  # another pair has the slot: the next one
            slots[others] = (slots[others] + 1) & self._last_slot
            found, wanted = self._slots[slots[others]], keys[others]
            same = found >> self._rank_bits == wanted
            ranks[others[same]] = found[same] & ((1 << self._rank_bits) - 1)
            others = others[(found >= 0) & ~same]
        return ranks

    def _pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a.astype(np.int64) << self._id_bits | b

    def _slot(self, keys: np.ndarray) -> np.ndarray:
        return (keys.view(np.uint64) * GOLDEN >> self._shift).view(np.int64)


def merge_words(
    data: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    table: PairTable,
    merge_one: Callable[[bytes], list[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of many words: all of them one after the other (M,), and how many each word has (N,).

    data: bytes, of which word i is data[starts[i] : starts[i] + lengths[i]]; no word is empty.
    merge_one: the ids of one word, for words of a length that few have.
    """
    counts = np.zeros(len(starts), np.int64)
    parts, numbers = [], []
    shortest = 0
    for height in (*HEIGHTS, None):
        (chosen,) = np.nonzero((lengths > shortest) & (lengths <= height) if height else lengths > shortest)
        shortest = height
        if height and len(chosen) >= FEW:
            flat, counts[chosen] = merge_matrix(data, starts[chosen], lengths[chosen], height, table)
        else:
            ends = (starts + lengths)[chosen]
            each = [merge_one(data[start:end].tobytes()) for start, end in zip(starts[chosen], ends)]
            counts[chosen] = list(map(len, each))
            flat = np.fromiter(chain.from_iterable(each), np.int32)
        parts.append(flat)
        numbers.append(chosen)
    # from the order of heights to the order of the words
    order = np.concatenate(numbers)
    begins = np.empty_like(counts)
    begins[order] = np.cumsum(counts[order]) - counts[order]
    return np.concatenate(parts)[spread(begins, counts)], counts


def spread(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Positions of many slices, one after the other.

    >>> spread(np.array([7, 2]), np.array([1, 3]))
    array([7, 2, 3, 4])
    """
    before = np.cumsum(counts) - counts
    return np.repeat(begins - before, counts) + np.arange(counts.sum())


def merge_matrix(data, starts, lengths, height: int, table: PairTable) -> tuple[np.ndarray, np.ndarray]:
    """The ids of words of up to `height` bytes, one after the other, and how many each has."""
    width, row_bits = len(starts), height.bit_length()
    rows = np.arange(height)[:, None]  # (R, 1)
    inside = rows < lengths  # (R, W)
    letters = data[np.minimum(starts + rows, len(data) - 1)].astype(np.int32)  # (R, W)
    # one row more, for what is before and after the word
    ids = np.full((height + 1, width), table.outside, np.int32)
    ids[:-1] = np.where(inside, table.byte_ids[letters], table.outside)
    after = np.tile(np.arange(1, height + 2, dtype=np.int16)[:, None], (1, width))
    after[:-1][rows + 1 >= lengths] = height
    before = np.tile(np.arange(-1, height, dtype=np.int16)[:, None], (1, width))
    before[0] = height
    keys = np.full((height + 1, width), NONE, np.int32)
    ranks = table.of_bytes[letters[:-1] << 8 | letters[1:]]
    keys[:-2] = np.where((rows[1:] < lengths) & (ranks != NONE), ranks << row_bits | rows[:-1], NONE)
    columns = np.arange(width)  # of `ids`, for each column of `keys`
    while True:
        best = keys[:-1].min(axis=0)
        (goes_on,) = np.nonzero(best != NONE)
        if len(goes_on) < len(best):
            if not len(goes_on):
                break
            keys, columns, best = keys[:, goes_on], columns[goes_on], best[goes_on]
        at, token = best & ((1 << row_bits) - 1), table.tokens[best >> row_bits]
        within = np.arange(len(columns))
        merged = after[at, columns]
        following, previous = after[merged, columns], before[at, columns]
        ids[at, columns], ids[merged, columns] = token, -1
        after[at, columns], before[following, columns] = following, at
        keys[merged, within] = NONE
        keys[at, within] = _keys(table.find(token, ids[following, columns]), at, row_bits)
        keys[previous, within] = _keys(table.find(ids[previous, columns], token), previous, row_bits)
    ids = ids[:-1].T  # (W, R): word by word
    kept = (ids >= 0) & (ids != table.outside)
    return ids[kept], kept.sum(axis=1)


def _keys(ranks: np.ndarray, rows: np.ndarray, row_bits: int) -> np.ndarray:
    return np.where(ranks == NONE, NONE, ranks << row_bits | rows)
