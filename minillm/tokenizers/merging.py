"""Merging neighbours in the order of a rank, in n log n steps however long the text, and how files
list what is merged.

Tokens are a linked list, and the pairs that can be merged wait in a heap; a pair one of whose
tokens has been merged meanwhile is found out of date when it is taken from the heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from minillm.errors import UserError


def merge_in_order(
    ids: list[int],
    merge_of: Callable[[tuple[int, int]], tuple[float, int] | None],
    seen: Callable[[int, int, float, int], None] | None = None,
) -> list[int]:
    """Merge the pair of the smallest rank, the first of several, until none is left. `ids` is used
    up.

    merge_of: a pair of ids -> (rank, id of both together), or None. seen: is called for each merge
    with the positions at which both began in `ids`, the rank and the id.

    >>> merge_in_order([1, 2, 1, 2, 3], {(1, 2): (7, 12), (12, 3): (8, 123)}.get)
    [12, 123]
    """
    count = len(ids)
    after, before = list(range(1, count + 1)), list(range(-1, count - 1))
    # (rank, position of the left token, the two tokens, what they become)
    heap = [(merge[0], at, *pair, merge[1]) for at, pair in enumerate(zip(ids, ids[1:])) if (merge := merge_of(pair))]
    heapq.heapify(heap)
    while heap:
        rank, at, left, right, token = heapq.heappop(heap)
        then = after[at]
        if ids[at] != left or then >= count or ids[then] != right:  # one of the two has been merged since
            continue
        if seen:
            seen(at, then, rank, token)
        ids[at], ids[then] = token, -1
        after[at] = following = after[then]
        if following < count:
            before[following] = at
            if merge := merge_of((token, ids[following])):
                heapq.heappush(heap, (merge[0], at, token, ids[following], merge[1]))
        previous = before[at]
        if previous >= 0 and (merge := merge_of((ids[previous], token))):
            heapq.heappush(heap, (merge[0], previous, ids[previous], token, merge[1]))
    return [token for token in ids if token >= 0]


def read_merges(merges, vocabulary: dict[str, int], where: str) -> list[tuple[str, str]]:
    """Merges as files list them, each as "a b" or [a, b].

    Raises UserError for one whose tokens are not in the vocabulary.

    >>> read_merges(["a b", ["ab", "c d"]], {"a": 0, "b": 1, "ab": 2, "c d": 3, "abc d": 4}, "the file")
    [('a', 'b'), ('ab', 'c d')]
    """
    if not isinstance(merges, list):
        raise UserError(f"{where}: merges has to be a list")
    pairs = []
    for rank, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if parts is not merge and parts[0].startswith("#version"):
            continue
        left, right = parts if isinstance(parts, (list, tuple)) and len(parts) == 2 else (None, None)
        if not (isinstance(left, str) and isinstance(right, str)):
            raise UserError(f"{where}: merge {rank} is {merge!r}, not two tokens")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise UserError(f"{where}: merge {rank} ({left} {right}) has a token that is not in the vocabulary")
        pairs.append((left, right))
    return pairs
