"""What a collective costs, on paper.

A message of n bytes takes alpha + n beta (Hockney, "The communication challenge for MPP", 1994): a
latency, and a time for each byte, 1 / bandwidth. With n bytes in the array and N ranks, by the
algorithms of Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations
in MPICH" (2005):

    one of reduce_scatter, all_gather     messages              bytes that a rank sends
    direct exchange                       N - 1                 n (N - 1) / N
    ring                                  N - 1, in turns       n (N - 1) / N
    halving, doubling                     log2 N                n (N - 1) / N
    tree (the whole array)                log2 N                n log2 N

A direct exchange sends every other rank its slice, and each rank adds what it got in the order of
the tree over the parts of a batch (minillm/distributed/tree.py): this is what minillm does. A ring
hands partial sums on, in an order that depends on N. Halving exchanges half of what is left with a
rank at a distance of 1, 2, 4, ...: its sums are those of the tree as well, where every rank has one
node of it, with fewer messages.

The bytes that all send are the same but for the tree. What differs is how many of them leave the
node, where ranks share one: with m ranks in a node, direct exchange sends n (N - m) / N bytes of
each rank through the node's adapters, halving n / m (1 - m / N), and a ring n (N - 1) / N bytes of
the whole node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """Hockney's two numbers. latency: seconds a message; bandwidth: bytes a second, one way."""

    latency: float
    bandwidth: float

    def seconds(self, messages: float, size: float) -> float:
        """Of so many messages one after the other, with `size` bytes in all."""
        return messages * self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Network:
    """Nodes with ranks in them.

    between: an adapter of a node. inside: the way from a rank to another of its node. ranks: of a
    node; adapters: of a node, which its ranks share.
    """

    between: Link
    inside: Link | None = None
    ranks: int = 1
    adapters: int = 1

    def in_node(self, ranks: int) -> int:
        """m: how many of `ranks` ranks share a node."""
        return min(self.ranks, ranks)

    def share(self, ranks: int) -> Link:
        """The way out of a node for each of its ranks, when all of them send."""
        share = min(1.0, self.adapters / self.in_node(ranks))
        return Link(self.between.latency, self.between.bandwidth * share)


Algorithm = Callable[[Network, float, int], float]  # (network, bytes in the array, ranks) -> seconds


def direct_exchange(network: Network, size: float, ranks: int) -> float:
    """Every rank sends every other its slice: first to those of its node, then to all others."""
    m = network.in_node(ranks)
    inside = network.inside.seconds(m - 1, size * (m - 1) / ranks) if m > 1 else 0.0
    return inside + network.share(ranks).seconds(ranks - m, size * (ranks - m) / ranks)


def ring(network: Network, size: float, ranks: int) -> float:
    """Every rank sends to the next, N - 1 times; as many rings at once as a node has adapters."""
    if ranks == 1:
        return 0.0
    m = network.in_node(ranks)
    nodes = ranks // m
    latency = (nodes - 1) * network.between.latency
    ways = []
    if nodes > 1:
        ways.append(network.between.bandwidth * min(m, network.adapters))
    if m > 1:
        latency += (ranks - nodes) * network.inside.latency
        ways.append(network.inside.bandwidth)
    return latency + size * (ranks - 1) / ranks / min(ways)


def halving(network: Network, size: float, ranks: int) -> float:
    """Half of what is left, with a rank twice as far away each time, the nearest first."""
    m = network.in_node(ranks)
    inside = network.inside.seconds(_log2(m), size * (m - 1) / m) if m > 1 else 0.0
    left = size / m
    return inside + network.share(ranks).seconds(_log2(ranks / m), left * (ranks - m) / ranks)


def tree(network: Network, size: float, ranks: int) -> float:
    """The whole array up, or down, a binomial tree: a sum at one rank, or a broadcast."""
    m = network.in_node(ranks)
    inside = network.inside.seconds(_log2(m), size * _log2(m)) if m > 1 else 0.0
    return inside + network.between.seconds(_log2(ranks / m), size * _log2(ranks / m))


ALGORITHMS: dict[str, Algorithm] = {"direct exchange": direct_exchange, "ring": ring, "halving": halving, "tree": tree}


def bytes_sent(collective: str, size: int, ranks: int) -> float:
    """What a rank hands to others, on the average, of an array of `size` bytes; of a broadcast, its root."""
    each = size * (ranks - 1) / ranks
    return {"reduce_scatter": each, "all_gather": each, "sum": 2 * each, "broadcast": size * (ranks - 1)}[collective]


def _log2(ranks: float) -> int:
    return math.ceil(math.log2(ranks))
