"""Packing: several short texts into rows of equal length, with as little left over as possible.

Best fit, longest first: each text goes into the row with the least space that is enough for it. The
rows needed are at most 11/9 of the fewest possible, and 4 more (Johnson 1973); of real
conversations nearly every row is full.

>>> pack([5, 3, 4, 2, 2], 8)
[[0, 1], [2, 3, 4]]
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from minillm.layers.cross_entropy import IGNORE_INDEX


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """The numbers of the texts in each row, from their lengths.

    Raises ValueError for a text that is longer than a row.
    """
    rows: list[list[int]] = []
    with_space: dict[int, list[int]] = {}  # space -> rows that have it
    spaces: list[int] = []  # the keys of with_space, ascending
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length = lengths[number]
        if length > row_length:
            raise ValueError(f"text {number} has {length} tokens, a row {row_length}")
        at = bisect_left(spaces, length)
        if at == len(spaces):
            row, space = len(rows), row_length
            rows.append([])
        else:
            space = spaces[at]
            row = with_space[space].pop()
            if not with_space[space]:
                del with_space[space], spaces[at]
        rows[row].append(number)
        if space > length:
            if space - length not in with_space:
                with_space[space - length] = []
                insort(spaces, space - length)
            with_space[space - length].append(row)
    return rows


def packed_row(texts: Sequence[tuple[np.ndarray, np.ndarray]], row_length: int) -> tuple[np.ndarray, ...]:
    """ids, targets and starts (T,) of a row that holds these texts one after the other.

    texts: for each its ids (N,), and which of them are learned (N,) bool. A text of N tokens takes
    N - 1 places: the last token is a target only. Targets that are not learned, and those of the
    places that are left, are IGNORE_INDEX. starts: where the text of a place begins in the row;
    what is left is a text of its own.

    >>> row = packed_row([(np.array([7, 8, 9]), np.array([0, 1, 1])), (np.array([5, 6]), np.array([0, 1]))], 4)
    >>> for values in row:
    ...     print(values.tolist())
    [7, 8, 5, 0]
    [8, 9, 6, -100]
    [0, 0, 2, 3]
    """
    ids, targets = np.zeros(row_length, np.int64), np.full(row_length, IGNORE_INDEX, np.int64)
    starts, at = np.zeros(row_length, np.int32), 0
    for tokens, learned in texts:
        end, tokens = at + len(tokens) - 1, np.asarray(tokens, np.int64)
        ids[at:end] = tokens[:-1]
        targets[at:end] = np.where(learned[1:], tokens[1:], IGNORE_INDEX)
        starts[at:end], at = at, end
    starts[at:] = at
    return ids, targets, starts


def padded_rows(texts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """ids and targets (N, T) of N texts, one in each row, T that of the longest.

    texts, targets: as in `packed_row`. The padding comes behind a text, which does not see it.
    """
    longest = max(len(tokens) for tokens, _ in texts) - 1
    ids, targets, _ = zip(*(packed_row([text], longest) for text in texts))
    return np.stack(ids), np.stack(targets)
