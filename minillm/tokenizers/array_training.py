"""Learning byte pairs from millions of distinct pieces: byte_pair_training.py with NumPy.

All pieces are one row of symbols. A token of several bytes has their places; its number is at the
first and at the last of them, so that both neighbours are found from it:

    place        0  1  2  3  4  5  6  7  8
    "lo" = 256   |  l  o  w  |  l  o  t  |          | is between pieces
    symbols     -1 256 256 w -1 256 256 t -1        after 256 at place 1 comes what is at 1 + 2

    merge 256, w -> 257      the places where 256 begins with w behind it, all at once
    symbols     -1 257 -2 257 -1 256 256 t -1       -2: no token begins or ends here

Each pair has a list of the places where it began when it was made. All of them are made by one
merge, that of its newer token; later some are no longer there, which their symbols say.

Only pairs that occur at least `least` times are followed. A pair's count only falls once it has
been counted, so that no other pair can become the most frequent one before all that are followed
have fallen below. Then `least` becomes smaller, tokens get one place each, and all pairs are
counted anew: a few times in all, and the many rare pairs of a large text are never listed.

`learn_merges` of byte_pair_training.py gives the same merges: the tests compare the two.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from minillm.tokenizers.byte_pair_training import BYTES
from minillm.tokenizers.word_counts import WordTable

MANY_BYTES = 1 << 20  # of distinct pieces, from which on this way is the faster one
BETWEEN, INSIDE = -1, -2
LOWER = 8  # `least` becomes that much smaller than the count of the most frequent pair
CHUNK = 1 << 22  # places that are looked at together
RIGHT = (1 << 24) - 1  # a pair is one number, left << 24 | right


def learn_merges_of_table(
    table: WordTable, merges: int, progress: Callable[[int], None] | None = None
) -> list[tuple[int, int]]:
    """The pairs of token ids that are merged, in order: see `learn_merges`.

    >>> from minillm.tokenizers.word_counts import count_words
    >>> learn_merges_of_table(count_words(["aaab aaab"], "gpt2"), 3)
    [(97, 97), (97, 98), (256, 257)]
    """
    pairs = _Pairs(table, merges)
    while len(pairs.learned) < merges and pairs.merge_next():
        if progress and not len(pairs.learned) % 64:
            progress(len(pairs.learned))
    if progress:
        progress(len(pairs.learned))
    return pairs.learned


class _Pairs:
    """symbols: of each place (P,). weights: how often the piece of a place occurs (P,). begins:
    whether a token, or what is between pieces, begins at a place (P,). places: how many each token
    has. counts, where: pair -> its count, and the places where it began, of pairs that are
    followed.
    """

    def __init__(self, table: WordTable, merges: int):
        before = np.arange(1, len(table.lengths) + 1)  # marks between pieces up to each of them
        count = len(table.data) + len(table.lengths) + 1
        self.symbols = np.full(count, BETWEEN, np.int32)
        small = table.counts.max(initial=0) < 1 << 32
        self.weights = np.zeros(count, np.uint32 if small else np.int64)
        inside = np.repeat(before, table.lengths) + np.arange(len(table.data))
        self.symbols[inside] = table.data
        self.weights[inside] = np.repeat(table.counts, table.lengths)
        self.begins = np.ones(count, bool)
        self.places = np.ones(BYTES + merges, np.int64)
        self.tokens = [bytes([value]) for value in range(BYTES)]
        self.known = set(self.tokens)
        self.learned: list[tuple[int, int]] = []
        self.narrow = np.uint16 if BYTES + merges < 1 << 16 else np.int32  # NumPy sorts short numbers by radix
        self.least = 0
        self._follow()

    def merge_next(self) -> bool:
        """Merge the most frequent pair, the smallest of several. False where there is none."""
        while True:
            if not self.heap:
                if self.least <= 1:
                    return False
                self._follow()
                continue
            negative, first, second, pair = heapq.heappop(self.heap)
            count = self.counts[pair]
            if count < self.least or first + second in self.known:  # it would be a second token of the same bytes
                del self.counts[pair], self.where[pair]
            elif count != -negative:
                heapq.heappush(self.heap, (-count, first, second, pair))
            else:
                self._merge(pair)
                return True

    def _merge(self, pair: int) -> None:
        a, b = pair >> 24, pair & RIGHT
        token = len(self.tokens)
        self.tokens.append(self.tokens[a] + self.tokens[b])
        self.known.add(self.tokens[token])
        self.learned.append((a, b))
        length_a, length_b = int(self.places[a]), int(self.places[b])
        self.places[token] = length_a + length_b
        del self.counts[pair]
        at = self._still_there(self.where.pop(pair), a, b, length_a)
        symbols, weights, middle = self.symbols, self.weights[at], at + length_a
        symbols[middle], self.begins[middle] = INSIDE, False
        symbols[middle + (length_b - 1)] = symbols[at] = token
        # (left, a) becomes (left, token); between two that were merged there was (b, a)
        for other, count, found in self._groups(symbols[at - 1], weights):
            self._subtract(b << 24 | a if other == token else other << 24 | a, count)
            if other != token:
                self._add(other << 24 | token, count, at[found] - self.places[other])
        # (b, right) becomes (token, right)
        for other, count, found in self._groups(symbols[middle + length_b], weights):
            if other != token:
                self._subtract(b << 24 | other, count)
            self._add(token << 24 | other, count, at[found])

    def _still_there(self, at: np.ndarray, a: int, b: int, length_a: int) -> np.ndarray:
        """The places of a list where the pair still is; of those that overlap, as in a a a, the
        first, third and so on.
        """
        at = at[self.symbols[at] == a]
        at = at[self.symbols[at + length_a] == b]
        if a != b or len(at) < 2:
            return at
        number = np.arange(len(at))
        is_first = np.concatenate([[True], at[1:] != at[:-1] + length_a])
        first = np.maximum.accumulate(np.where(is_first, number, 0))
        return at[(number - first) % 2 == 0]

    def _groups(self, neighbours: np.ndarray, weights: np.ndarray):
        """(neighbour, sum of its weights, where it is) of each distinct token."""
        (chosen,) = np.nonzero(neighbours >= 0)
        if not len(chosen):
            return
        order = chosen[np.argsort(neighbours[chosen].astype(self.narrow), kind="stable")]
        ordered = neighbours[order]
        begins = _begins(ordered)
        sums = np.add.reduceat(weights[order], begins, dtype=np.int64).tolist()
        bounds = [*begins.tolist(), len(order)]
        for number, other in enumerate(ordered[begins].tolist()):
            yield other, sums[number], order[bounds[number] : bounds[number + 1]]

    def _subtract(self, pair: int, count: int) -> None:
        if pair in self.counts:
            self.counts[pair] -= count

    def _add(self, pair: int, count: int, at: np.ndarray) -> None:
        if count >= self.least:
            self.counts[pair], self.where[pair] = count, at.astype(np.int32)
            heapq.heappush(self.heap, (-count, self.tokens[pair >> 24], self.tokens[pair & RIGHT], pair))

    # ---------------------------------------------------------------------------------------------- all pairs anew

    def _follow(self) -> None:
        """Give each token one place, count all pairs, and follow the frequent ones."""
        self.symbols, self.weights = self.symbols[self.begins], self.weights[self.begins]
        self.begins = np.ones(len(self.symbols), bool)
        self.places[: len(self.tokens)] = 1
        pairs, counts = self._count_pairs()
        largest = self._largest(pairs, counts)
        self.least = largest // LOWER if largest >= LOWER * LOWER else 1
        self.counts, self.where, self.heap = {}, {}, []
        pairs, counts = pairs[counts >= self.least], counts[counts >= self.least]
        for pair, count, at in zip(pairs.tolist(), counts.tolist(), self._places_of(pairs)):
            self._add(pair, count, at)

    def _largest(self, pairs: np.ndarray, counts: np.ndarray) -> int:
        """The count of the most frequent pair that can become a token, 0 where there is none."""
        for number in np.argsort(-counts, kind="stable").tolist():
            pair = int(pairs[number])
            if self.tokens[pair >> 24] + self.tokens[pair & RIGHT] not in self.known:
                return int(counts[number])
        return 0

    def _count_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs in ascending order, and how often they occur."""
        found = [_sums(pairs, self.weights[at]) for pairs, at in self._pairs_by_chunks()]
        return _sums(*map(np.concatenate, zip(*found)))

    def _pairs_by_chunks(self):
        """(pairs, places where they begin), chunk by chunk."""
        for start in range(0, max(1, len(self.symbols) - 1), CHUNK):
            chunk = self.symbols[start : start + CHUNK + 1]
            (at,) = np.nonzero((chunk[:-1] >= 0) & (chunk[1:] >= 0))
            yield chunk[at].astype(np.int64) << 24 | chunk[at + 1], (at + start).astype(np.int32)

    def _places_of(self, wanted: np.ndarray) -> list[np.ndarray]:
        """The places where each of these pairs begins. wanted: in ascending order."""
        found: list[list[np.ndarray]] = [[] for _ in wanted]
        for pairs, at in self._pairs_by_chunks():
            numbers = np.minimum(np.searchsorted(wanted, pairs), len(wanted) - 1)
            (chosen,) = np.nonzero(wanted[numbers] == pairs)
            numbers = numbers[chosen].astype(np.uint16 if len(wanted) < 1 << 16 else np.int32)
            order = np.argsort(numbers, kind="stable")
            numbers, at = numbers[order], at[chosen[order]]
            bounds = [*_begins(numbers).tolist(), len(numbers)]
            for begin, end in zip(bounds, bounds[1:]):
                found[numbers[begin]].append(at[begin:end])
        return list(map(np.concatenate, found))


def _begins(ordered: np.ndarray) -> np.ndarray:
    """Where each run of equal numbers begins.

    >>> _begins(np.array([4, 4, 7]))
    array([0, 2])
    """
    return np.flatnonzero(np.concatenate([[len(ordered) > 0], ordered[1:] != ordered[:-1]]))


def _sums(pairs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs in ascending order, and the sum of the weights of each."""
    order = np.argsort(pairs)
    ordered = pairs[order]
    begins = _begins(ordered)
    if not len(begins):
        return pairs, weights.astype(np.int64)
    return ordered[begins], np.add.reduceat(weights[order], begins, dtype=np.int64)
