"""How a text becomes ids, step by step: what is looked for in it, what it is cut into, every merge.

A trace is made by the code that encodes: the same cuts, the same merging (merging.py), and its ids
are those of `encode`.

>>> from minillm.tokenizers import BytePairTokenizer
>>> tokenizer = BytePairTokenizer.train("low lower lowest", vocab_size=260)
>>> for piece in tokenizer.trace("low lower"):
...     print(piece.text, piece.start, [merge.token for merge in piece.merges], piece.ids)
low [108, 111, 119] [256, 257] [257]
 lower [32, 108, 111, 119, 101, 114] [256, 257, 258, 259] [259, 114]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from minillm.tokenizers.merging import merge_in_order


class Merge(NamedTuple):
    """Two neighbours become one token.

    left, right: where they begin, as positions in `start`. rank: of the pair, the smallest is
    merged first; of a vocabulary with scores, minus the score. token: the id of both together.
    """

    left: int
    right: int
    rank: float
    token: int


@dataclass(frozen=True)
class TracedPiece:
    """A part of a text that becomes ids by itself.

    text: as the model sees it, normalised. start: the ids that it begins with, bytes or characters.
    ids: what it becomes. whole: whether it became its token without merges, because it is one.
    added: whether it was found in the text as an added token, or put around it.
    """

    text: str
    start: list[int]
    ids: list[int]
    merges: list[Merge] = field(default_factory=list)
    whole: bool = False
    added: bool = False


def merged_piece(text: str, start: list[int], merge_of: Callable) -> TracedPiece:
    """The piece of a text that begins with the ids `start`, with all its merges.

    merge_of: as in merge_in_order.
    """
    merges: list[Merge] = []
    ids = merge_in_order(list(start), merge_of, lambda *merge: merges.append(Merge(*merge)))
    return TracedPiece(text, start, ids, merges)


def after_merges(piece: TracedPiece, count: int) -> list[int]:
    """The ids of a piece after its first merges.

    >>> piece = merged_piece("low", [1, 2, 3], {(1, 2): (0, 12), (12, 3): (1, 123)}.get)
    >>> [after_merges(piece, count) for count in range(3)]
    [[1, 2, 3], [12, 3], [123]]
    """
    if piece.whole:
        return piece.ids
    ids: list[int | None] = list(piece.start)
    for merge in piece.merges[:count]:
        ids[merge.left], ids[merge.right] = merge.token, None
    return [index for index in ids if index is not None]
