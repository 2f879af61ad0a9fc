"""The ids of a long text by NumPy from end to end: each distinct pre-token is merged once, and no
Python object is made for any other.

    text       "low lower low"                    UTF-8 bytes and where pre-tokens begin (array_cuts.py, or the pattern)
    words      low | _lower | _low                distinct ones by their bytes (distinct_words)
    merged     [258] [260] [259]                  all at once (byte_pair_batch.py)
    ids        gathered for each occurrence       nothing is remembered for the next text

The plain way is `BytePairTokenizer.encode_plainly`, which gives the same ids; short texts go by
piece_cache.py, which remembers. Measured by benchmarks/tokenizer.py with GPT-2's vocabulary on 1 MB
of English seen for the first time, one core of an AMD EPYC, 2026-11-26: 20.3 MB/s, 1.20 times
tiktoken's speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minillm.tokenizers.array_cuts import code_points, gpt2_begins
from minillm.tokenizers.byte_pair_batch import PairTable, merge_words, spread

LONG = 1 << 15  # characters from which on a text is encoded so
WORD_BYTES = 16  # bytes of a word that are compared as two numbers
SLOT_BITS = 17  # a larger hash table would not stay in the L2 cache
# kept bits of the eight bytes at the start of a word of 0 to 8 bytes
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(9)], np.uint64)
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


class Pretokens(NamedTuple):
    """data: bytes of all pre-tokens (M,), with WORD_BYTES more after them. starts, lengths: of each
    pre-token (N,) in them."""

    data: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def word(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.starts[number] + self.lengths[number]].tobytes()


def by_kinds(text: str) -> Pretokens:
    """A text cut with GPT-2's pattern; it is not empty."""
    codes = code_points(text)
    starts = gpt2_begins(codes)
    data = codes
    if codes.dtype != np.uint8:
        # UTF-8 has a byte more from each of these numbers on
        sizes = 1 + sum((codes >= limit).view(np.uint8) for limit in (0x80, 0x800, 0x10000))
        starts = (np.cumsum(sizes, dtype=np.int64) - sizes)[starts]
        data = np.frombuffer(text.encode("utf-8"), np.uint8)
    return _padded(data, starts)


def by_pieces(pieces: list[str]) -> Pretokens:
    """Pre-tokens that were cut otherwise; there is one at least, and none is empty."""
    text = "".join(pieces)
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    lengths = map(len, pieces) if text.isascii() else (len(piece.encode("utf-8")) for piece in pieces)
    lengths = np.fromiter(lengths, np.int64, len(pieces))
    return _padded(data, np.cumsum(lengths) - lengths)


def _padded(data: np.ndarray, starts: np.ndarray) -> Pretokens:
    return Pretokens(np.concatenate([data, np.zeros(WORD_BYTES, np.uint8)]), starts, np.diff(starts, append=len(data)))


def encode_pretokens(
    pretokens: Pretokens, table: PairTable, merge_one: Callable[[bytes], list[int]], whole: dict[bytes, int] | None
) -> np.ndarray:
    """The ids (M,) of all pre-tokens.

    merge_one: the ids of the bytes of one. whole: those that need no merges.
    """
    firsts, number = distinct_words(pretokens)
    ids, counts = _encode_distinct(pretokens, firsts, table, merge_one, whole)
    begins = np.cumsum(counts) - counts
    return ids[spread(begins[number], counts[number])]


def _encode_distinct(pretokens, firsts, table, merge_one, whole):
    starts, lengths = pretokens.starts[firsts], pretokens.lengths[firsts]
    if whole is None:
        return merge_words(pretokens.data, starts, lengths, table, merge_one)
    known = np.array([whole.get(pretokens.word(first), -1) for first in firsts.tolist()], np.int32)
    (rest,) = np.nonzero(known < 0)
    counts = np.ones(len(firsts), np.int64)
    merged, counts[rest] = merge_words(pretokens.data, starts[rest], lengths[rest], table, merge_one)
    ids = np.repeat(known, counts)
    ids[ids < 0] = merged
    return ids, counts


def distinct_words(pretokens: Pretokens, slot_bits: int = SLOT_BITS) -> tuple[np.ndarray, np.ndarray]:
    """Where each distinct word occurs first or later (D,), and the number of each pre-token's word
    among them (N,).

    Words of up to WORD_BYTES bytes are two numbers and a length. All write their position into a
    hash table, and whose word is found there has its number; the others try again with another
    hash. Longer ones go through a dict. slot_bits: the hash table has at most 2 to this slots.

    >>> firsts, number = distinct_words(by_pieces(["a", " b", "a", " b"]))
    >>> firsts[number].tolist()
    [2, 3, 2, 3]
    """
    lengths = pretokens.lengths
    first = np.empty(len(lengths), np.int64)  # a pre-token of the same bytes
    (left,) = np.nonzero(lengths <= WORD_BYTES)
    a, b, sizes = _as_numbers(pretokens, left)
    slots = np.empty(1 << min((2 * len(left)).bit_length(), slot_bits), np.int32)
    mix = _MIX.copy()
    while len(left):
        hashes = (a * mix[0] ^ b * mix[1] ^ sizes) * mix[2] >> np.uint64(65 - len(slots).bit_length())
        here = np.arange(len(left), dtype=np.int32)
        slots[hashes] = here
        there = slots[hashes]
        same = (a[there] == a) & (b[there] == b) & (sizes[there] == sizes)
        first[left[same]] = left[there[same]]
        left, a, b, sizes = (each[~same] for each in (left, a, b, sizes))
        mix = mix * _MIX[0] | np.uint64(1)
    seen: dict[bytes, int] = {}
    for number in np.flatnonzero(lengths > WORD_BYTES).tolist():
        first[number] = seen.setdefault(pretokens.word(number), number)
    firsts = np.flatnonzero(first == np.arange(len(first)))
    number = np.empty(len(first), np.int64)
    number[firsts] = np.arange(len(firsts))
    return firsts, number[first]


def _as_numbers(pretokens: Pretokens, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first eight bytes of words, the next eight, and the lengths, each (N,)."""
    starts, lengths = pretokens.starts[chosen], pretokens.lengths[chosen]
    data = pretokens.data
    eight = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))  # the number that begins at each byte
    a = eight[starts] & _MASKS[np.minimum(lengths, 8)]
    b = np.zeros_like(a)
    (longer,) = np.nonzero(lengths > 8)
    b[longer] = eight[starts[longer] + 8] & _MASKS[lengths[longer] - 8]
    return a, b, lengths.astype(np.uint64)
