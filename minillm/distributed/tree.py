r"""The order in which the gradients of the parts of a batch are added: one binary tree, no matter
which rank computes which part.

A batch is cut into S parts, and the gradient of the batch is the sum of theirs. Sums of
floating-point numbers depend on their order: (a + b) + c is not a + (b + c). So the order is fixed.
A node of the tree is a range of parts, and

    sum(first, last) = sum(first, middle) + sum(middle, last)
    middle = first + the largest power of two below last - first

    S = 6:      (0 6)
               /     \
          (0 4)       (4 6)
          /   \       /   \
      (0 2) (2 4)    4     5
       / \   / \
      0   1 2   3

A rank, or a thread, computes parts that follow each other. It adds what forms whole nodes and hands
on those that it cannot add further. For parts 1 to 3 of 6 these are the nodes 1 and (2 4). The sum
of all goes on along the same tree, so that it has the same bits for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Node = tuple[int, int]  # the parts first, ..., last - 1


def children(node: Node) -> tuple[Node, Node]:
    """The two nodes of which a node of at least two parts is the sum."""
    first, last = node
    middle = first + (1 << (last - first - 1).bit_length() - 1)
    return (first, middle), (middle, last)


def nodes_of(parts: range, all_parts: int) -> list[Node]:
    """The largest nodes of the tree over `all_parts` parts that a range of them has, in order."""

    def inside(node: Node) -> Iterator[Node]:
        first, last = node
        if last <= parts.start or parts.stop <= first:
            return
        if parts.start <= first and last <= parts.stop:
            yield node
        else:
            for child in children(node):
                yield from inside(child)

    return list(inside((0, all_parts))) if len(parts) else []


def parts_of(worker: int, workers: int, all_parts: int) -> range:
    """The parts of one of `workers` workers: an equal share, as far as they can be equal."""
    return range(all_parts * worker // workers, all_parts * (worker + 1) // workers)


def add_up(terms: dict[Node, object], node: Node):
    """The sum over a node, of the terms that are known: arrays, or numbers.

    Arrays are added in place: the sum is in the memory of the first term. Raises KeyError where the
    term of a part is missing.
    """
    if node in terms:
        return terms[node]
    if node[1] - node[0] == 1:
        raise KeyError(f"the term of part {node[0]} is missing")
    left, right = (add_up(terms, child) for child in children(node))
    left += right
    return left


def write_sum(known: dict[Node, object], root: Node, out) -> None:
    """`add_up`, written to `out`, which may be one of the terms; no other one changes."""
    if root in known:
        out[...] = known[root]
    else:
        left, right = (_sum(known, child) for child in children(root))
        np.add(left, right, out=out)


def _sum(known: dict[Node, object], node: Node):
    if node in known:
        return known[node]
    left, right = (_sum(known, child) for child in children(node))
    return left + right


class Running:
    """The sum of parts that a worker computes one after the other, in as few arrays as the tree
    allows.

    `slot()` tells which array the next part's term is to be written to; `added(part)` is called
    once it is there. Then the arrays 0, 1, ... hold the nodes of `nodes_of`, in order. Needed are
    `slots_needed(parts, all_parts)` arrays.

    add(i, j): adds array j into array i.
    """

    def __init__(self, all_parts: int, add):
        self.nodes: list[Node] = []
        self._all_parts, self._add = all_parts, add

    def slot(self) -> int:
        """The number of the array for the next part."""
        return len(self.nodes)

    def added(self, part: int, last: int | None = None) -> None:
        """The next part's term has been written, or the sum of the parts part, ..., last - 1: add
        what can be added.
        """
        self.nodes.append((part, part + 1 if last is None else last))
        while len(self.nodes) > 1 and self._parent(*self.nodes[-2:]):
            last = self.nodes.pop()
            self._add(len(self.nodes) - 1, len(self.nodes))
            self.nodes[-1] = self.nodes[-1][0], last[1]

    def _parent(self, left: Node, right: Node) -> bool:
        """Whether two nodes beside each other are the children of a node of the tree."""
        node = (0, self._all_parts)
        while node[1] - node[0] > 1:
            both = children(node)
            if both == (left, right):
                return True
            node = both[0] if right[1] <= both[0][1] else both[1]
        return False


def slots_needed(parts: range, all_parts: int) -> int:
    """How many arrays `Running` needs for a range of parts."""
    most = 0
    running = Running(all_parts, lambda i, j: None)
    for part in parts:
        most = max(most, running.slot() + 1)
        running.added(part)
    return most
