"""The ids of byte_pair.py, faster: text is cut at spaces, words are remembered, and long texts go
through NumPy.

    a pre-token that was seen before       its ids come from a dict
    a word between two spaces, likewise    not even cut: `str.split` takes a third of the time of the pattern
    a new pre-token of up to SHORT bytes   merged with the ranks of its pairs kept in a list
    a longer one                           merged with a heap, in n log n steps (merging.py)
    one of LONG_WORD bytes                 merged in windows with NumPy (long_words.py)
    a text of LONG characters              cut, merged and put together with NumPy (array_encoding.py)

`BytePairTokenizer.encode_plainly` gives the same ids: the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import chain, islice

import numpy as np

from minillm.errors import UserError
from minillm.tokenizers.array_encoding import LONG, Pretokens, encode_pretokens
from minillm.tokenizers.byte_pair_batch import PairTable
from minillm.tokenizers.long_words import LONG_WORD, merge_long_word
from minillm.tokenizers.merging import merge_in_order

CACHED_PIECES = 1 << 18  # pre-tokens whose ids are remembered, and as many words
TOKEN_BITS = 24
TOKEN_MASK, NO_MERGE = (1 << TOKEN_BITS) - 1, 1 << 60
SHORT = 64  # bytes up to which a pre-token is merged by looking at all pairs; beyond, by merging.py


class PieceCache:
    """Texts to ids, by way of what was seen before.

    cut: text, and whether it starts the input -> pre-tokens. by_words: whether cut never matches
    across a space between two characters that are none (the named patterns), so that text can be
    split there first. merges: pairs of ids in the order of their rank, and what each becomes.
    byte_ids: the id of each byte, -1 where there is none. whole: bytes -> id of the pre-tokens that
    need no merges; None without ignore_merges. cut_long: as cut, for long texts.
    """

    def __init__(
        self,
        cut: Callable[[str, bool], list[str]],
        by_words: bool,
        merges: Iterable[tuple[int, int, int]],
        byte_ids: list[int],
        whole: dict[bytes, int] | None,
        cut_long: Callable[[str, bool], Pretokens],
    ):
        self._cut_long = cut_long
        self._cut, self._byte_ids, self._whole = cut, byte_ids, whole
        # pair -> rank and token in one number, rank first: the smallest is merged first
        self._merge_of = {(a, b): rank << TOKEN_BITS | token for rank, (a, b, token) in enumerate(merges)}
        self._pretokens = _Cache(self._encode_pretoken)
        self._words = _Cache(self._encode_word) if by_words else None

    @cached_property
    def _pair_table(self) -> PairTable:
        return PairTable(self._merge_of, self._byte_ids, TOKEN_BITS)

    def encode(self, text: str, starts: bool = True) -> list[int]:
        """The ids of a text.

        starts: whether it starts the input. Raises UserError for a byte without a token.
        """
        if self.takes_long(text):
            return self.encode_long(text, starts).tolist()
        if self._words is None:
            return self._encode_pretokens(text, starts)
        words = text.split(" ")
        found = [None]  # there is no space before the first
        found += map(self._words.__getitem__, islice(words, 1, None))
        alone = [index for index, ids in enumerate(found) if ids is None]
        return list(chain.from_iterable(self._with_spaces_joined(words, found, alone)))

    def takes_long(self, text: str) -> bool:
        """Whether `encode_long` is the faster way, and the vocabulary has all bytes."""
        return len(text) >= LONG and -1 not in self._byte_ids

    def encode_long(self, text: str, starts: bool = True) -> np.ndarray:
        """The ids (N,) of a text as an array."""
        pretokens = self._cut_long(text, starts)
        return encode_pretokens(pretokens, self._pair_table, self._merged_bytes, self._whole)

    def _merged_bytes(self, data: bytes) -> list[int]:
        if len(data) >= LONG_WORD and -1 not in self._byte_ids:
            return merge_long_word(data, self._pair_table, self._merged_with_heap).tolist()
        if len(data) > SHORT:
            return self._merged_with_heap(data)
        return self._merged(list(map(self._byte_ids.__getitem__, data)))

    def _merged_with_heap(self, data: bytes) -> list[int]:
        return merge_in_order(list(map(self._byte_ids.__getitem__, data)), self._rank_and_token)

    def _with_spaces_joined(self, words, found, alone) -> Iterator[Iterable[int]]:
        """The ids of all words.

        Where white space meets the space between two, the pattern has to see both together.
        """
        done, count = 0, len(words)
        for index in alone:
            if index < done:
                continue
            start = index
            if start > done and _starts_with_space(words[start]):
                start -= 1
            end = index + 1
            while end < count and (_ends_in_space(words[end - 1]) or _starts_with_space(words[end])):
                end += 1
            yield from found[done:start]
            together = " ".join(words[start:end])
            yield self._encode_pretokens(" " + together if start else together)
            done = end
        yield from found[done:]

    def _encode_word(self, word: str) -> tuple[int, ...] | None:
        """The ids of a word between two spaces, with the first of them; None if white space touches
        one of them.
        """
        if _starts_with_space(word) or _ends_in_space(word):
            return None
        return tuple(self._encode_pretokens(" " + word))

    def _encode_pretokens(self, text: str, starts: bool = True) -> list[int]:
        found = self._cut(text, starts)
        return list(chain.from_iterable(map(self._pretokens.__getitem__, found)))

    def _encode_pretoken(self, pretoken: str) -> tuple[int, ...]:
        data = pretoken.encode("utf-8")
        if self._whole is not None and data in self._whole:
            return (self._whole[data],)
        if -1 in self._byte_ids:
            ids_of_bytes(data, self._byte_ids, pretoken)  # may raise
        return tuple(self._merged_bytes(data))

    def _merged(self, ids: list[int]) -> list[int]:
        """All merges of a short word: the smallest rank among its pairs, again and again."""
        get = self._merge_of.get
        merges = [get(pair, NO_MERGE) for pair in zip(ids, ids[1:])]
        while merges and (best := min(merges)) != NO_MERGE:
            at, token = merges.index(best), best & TOKEN_MASK
            ids[at : at + 2] = (token,)
            del merges[at]
            if at:
                merges[at - 1] = get((ids[at - 1], token), NO_MERGE)
            if at < len(merges):
                merges[at] = get((token, ids[at + 1]), NO_MERGE)
        return ids

    def _rank_and_token(self, pair: tuple[int, int]) -> tuple[int, int] | None:
        merge = self._merge_of.get(pair)
        return None if merge is None else (merge >> TOKEN_BITS, merge & TOKEN_MASK)


def ids_of_bytes(data: bytes, byte_ids: list[int], pretoken: str) -> list[int]:
    """The id of each byte. Raises UserError for one that the vocabulary lacks."""
    ids = list(map(byte_ids.__getitem__, data))
    if -1 in ids:
        raise UserError(
            f"the vocabulary has no token for the byte {data[ids.index(-1)]}, which is in {pretoken[:40]!r}"
        )
    return ids


def _starts_with_space(text: str) -> bool:
    return not text or text[0].isspace()


def _ends_in_space(text: str) -> bool:
    return not text or text[-1].isspace()


class _Cache(dict):
    """Remembers the results of a function, and forgets them all when there are too many."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def __missing__(self, key):
        if len(self) >= CACHED_PIECES:
            self.clear()
        self[key] = value = self._function(key)
        return value
