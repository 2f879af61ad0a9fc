"""How often each distinct piece of a long text occurs, by NumPy: part by part, and the parts
together.

    "low lower low"     data   l o w _ l o w e r _ l o w       lengths 3 6 4       counts 1 1 1

A table has 16 bytes for a piece and those of the piece itself; a dict has more than a hundred. Its
length grows with the text, ever more slowly: a text has new words on its last page, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np

from minillm.errors import UserError
from minillm.tokenizers.array_encoding import WORD_BYTES, Pretokens, by_kinds, by_pieces, distinct_words
from minillm.tokenizers.byte_pair_batch import spread
from minillm.tokenizers.patterns import PATTERNS, compile_pattern, pieces
from minillm.tokenizers.safe_cuts import SafeCuts, text_parts

PART = 1 << 22  # characters that are counted together
FEWEST = 1 << 17  # pieces that wait until they are joined
SLOT_BITS = 22  # most pieces of a table are distinct, so that a larger hash table has fewer rounds


class WordTable(NamedTuple):
    """data: bytes of distinct pieces, one after the other (M,). lengths: of each (N,). counts: how
    often each occurs (N,).
    """

    data: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    def as_dict(self) -> dict[bytes, int]:
        """Piece -> count."""
        data, ends = self.data.tobytes(), np.cumsum(self.lengths)
        bounds = zip((ends - self.lengths).tolist(), ends.tolist())
        return {data[start:end]: count for (start, end), count in zip(bounds, self.counts.tolist())}


NO_WORDS = WordTable(np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def count_words(texts: Iterable[str], pattern: str) -> WordTable:
    """The pieces of texts, each of which is cut by itself.

    >>> sorted(count_words(["low lower low"], "gpt2").as_dict().items())
    [(b' low', 1), (b' lower', 1), (b'low', 1)]
    """
    texts = list(filter(None, texts))
    if not texts:
        return NO_WORDS
    try:
        found = _cut(texts, pattern)
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise UserError(f"the text has a lone surrogate, U+{code:04X}: it cannot be written as UTF-8") from None
    firsts, number = distinct_words(found)
    return _table(found, firsts, np.bincount(number))


def _cut(texts: list[str], pattern: str) -> Pretokens:
    if pattern == "gpt2" and len(texts) == 1:
        return by_kinds(texts[0])
    compiled = compile_pattern(pattern)
    return by_pieces(list(chain.from_iterable(pieces(compiled, text) for text in texts)))


def count_in_parts(texts: Iterable[str], pattern: str) -> WordTable:
    """As `count_words`, with no more than about PART characters at a time."""
    counter, waiting, characters = WordCounter(), [], 0
    cuts = SafeCuts() if pattern in PATTERNS else None
    for text in texts:
        for part in text_parts(text, cuts, PART):
            waiting.append(part)
            characters += len(part)
            if characters >= PART:
                counter.add(count_words(waiting, pattern))
                waiting, characters = [], 0
    counter.add(count_words(waiting, pattern))
    return counter.table()


def join_tables(tables: Iterable[WordTable], keep: int = 0) -> WordTable:
    """One table for several. keep: at most so many pieces, the most frequent; 0 for all."""
    tables = [table for table in tables if len(table.counts)]
    if not tables:
        return NO_WORDS
    data, lengths, counts = map(np.concatenate, zip(*tables))
    padded = np.concatenate([data, np.zeros(WORD_BYTES, np.uint8)])
    found = Pretokens(padded, np.cumsum(lengths) - lengths, lengths)
    firsts, number = distinct_words(found, SLOT_BITS)
    # sums of whole numbers below 2**53 are exact in float64
    sums = np.bincount(number, weights=counts).astype(np.int64)
    if keep and len(firsts) > keep:
        rarest_kept = np.partition(sums, len(sums) - keep - 1)[len(sums) - keep - 1] + 1
        firsts, sums = firsts[sums >= rarest_kept], sums[sums >= rarest_kept]
    return _table(found, firsts, sums)


def _table(found: Pretokens, firsts: np.ndarray, counts: np.ndarray) -> WordTable:
    lengths = found.lengths[firsts]
    return WordTable(found.data[spread(found.starts[firsts], lengths)], lengths, counts)


class WordCounter:
    """Adds tables up. Those of new parts wait until they have as many pieces as the sum has: then
    each piece is joined a few times, and not once for every part of the text.

    keep: the most pieces of the sum; 0 for all. With it, counts of rare pieces are too low: a piece
    that is dropped begins anew when it comes again.
    """

    def __init__(self, keep: int = 0):
        self._keep = keep
        self._sum, self._waiting, self._waiting_pieces = NO_WORDS, [], 0

    def add(self, table: WordTable) -> None:
        """Add the table of a part."""
        self._waiting.append(table)
        self._waiting_pieces += len(table.counts)
        if self._waiting_pieces >= max(FEWEST, len(self._sum.counts)):
            self._join()

    def table(self) -> WordTable:
        """The sum of all that was added."""
        self._join()
        return self._sum

    def _join(self) -> None:
        waiting, self._waiting, self._waiting_pieces = self._waiting, [], 0
        if waiting:
            self._sum = join_tables([self._sum, *waiting], self._keep)
