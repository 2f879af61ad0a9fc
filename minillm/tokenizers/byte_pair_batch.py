"""Merging thousands of pieces at a time with NumPy, for texts whose pieces have not been seen
before.

All pieces lie in one array of ids, and each round makes one merge in every piece that still has
one: the pair of the smallest rank, the first of them. Pieces that have none left leave the array.
It gives what `PieceCache._merged` gives, in about a third of the time.
"""

from __future__ import annotations

import numpy as np

NONE = np.iinfo(np.int64).max


class PairTable:
    """Looks up many merges at once.

    merge_of: (a, b) -> rank and token in one number, as PieceCache has it.
    """

    def __init__(self, merge_of: dict[tuple[int, int], int], byte_ids: list[int], token_bits: int):
        self.token_bits = token_bits
        self.byte_ids = np.array(byte_ids, np.int64)
        pairs = np.array(list(merge_of), np.int64).reshape(-1, 2)
        keys = self._keys(pairs[:, 0], pairs[:, 1])
        order = np.argsort(keys)
        self._sorted_keys = np.append(keys[order], NONE)
        self._merges = np.append(np.fromiter(merge_of.values(), np.int64, len(merge_of))[order], NONE)
        # most look-ups are of two bytes
        self._of_bytes = self.find(np.repeat(self.byte_ids, 256), np.tile(self.byte_ids, 256))

    def find(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The merges of pairs of ids, NONE where there is none."""
        keys = self._keys(a, b)
        at = np.searchsorted(self._sorted_keys, keys)
        return np.where(self._sorted_keys[at] == keys, self._merges[at], NONE)

    def find_bytes(self, data: np.ndarray) -> np.ndarray:
        """The merges of neighbours in a sequence of bytes (N,) -> (N,), the last one NONE."""
        pairs = data[:-1].astype(np.int64) * 256 + data[1:]
        return np.append(self._of_bytes[pairs], NONE)

    def _keys(self, a, b):
        return a << self.token_bits | b


def merge_pieces(pieces: list[bytes], table: PairTable) -> list[tuple[int, ...]]:
    """The ids of each piece; no piece is empty."""
    results: list = [None] * len(pieces)
    data = np.frombuffer(b"".join(pieces), np.uint8)
    ids, merges = table.byte_ids[data], table.find_bytes(data)
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    numbers = np.arange(len(pieces))  # which piece each entry of `lengths` is
    merges[np.cumsum(lengths) - 1] = NONE  # no pair crosses from one piece to the next
    while len(numbers):
        starts = np.cumsum(lengths) - lengths
        best = np.minimum.reduceat(merges, starts)
        goes_on = best != NONE
        if not goes_on.all():
            _take_out(results, ids, lengths, starts, numbers, ~goes_on)
            kept = np.repeat(goes_on, lengths)
            ids, merges = ids[kept], merges[kept]
            numbers, lengths, best = numbers[goes_on], lengths[goes_on], best[goes_on]
            if not len(numbers):
                break
        at = _first_of_each(merges == np.repeat(best, lengths), lengths)
        ids[at] = best & ((1 << table.token_bits) - 1)
        kept = np.ones(len(ids), bool)
        kept[at + 1] = False
        ids, merges = ids[kept], merges[kept]
        at = at - np.arange(len(at))  # one entry has gone from every piece before
        lengths = lengths - 1
        ends = np.cumsum(lengths)
        last = at == ends - 1
        merges[at] = np.where(last, NONE, table.find(ids[at], ids[np.where(last, at, at + 1)]))
        inner = at[at > ends - lengths]  # those with a neighbour on the left
        merges[inner - 1] = table.find(ids[inner - 1], ids[inner])
    return results


def _first_of_each(marked: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The first marked position of each piece; every piece has one."""
    positions = np.flatnonzero(marked)
    piece = np.repeat(np.arange(len(lengths)), lengths)[positions]
    return positions[np.flatnonzero(np.diff(piece, prepend=-1))]


def _take_out(results, ids, lengths, starts, numbers, done) -> None:
    """Store the ids of the pieces that are done."""
    flat = ids[np.repeat(done, lengths)].tolist()
    end = 0
    for number, length in zip(numbers[done].tolist(), lengths[done].tolist()):
        results[number] = tuple(flat[end : end + length])
        end += length
