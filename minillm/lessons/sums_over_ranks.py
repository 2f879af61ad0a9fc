"""Sums over ranks, for the lesson on many hands: the two collectives step by step, and the order in
which a sum is added.

With N ranks and arrays x_i of P bytes, cut into N slices,

    reduce_scatter    rank r gets  sum_i x_i [slice r]    and sends N - 1 slices:          P (N - 1) / N
    all_gather        rank r gets  the slices of all      and sends its own to N - 1:      P (N - 1) / N

One after the other they are the sum. The ranks are threads (minillm/distributed/rank_threads.py):
each has its own arrays, and reads what the others give.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import random_windows
from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.layout import Layout
from minillm.distributed.rank_threads import run_ranks
from minillm.distributed.tree import add_up, nodes_of, parts_of
from minillm.lessons.letters import ALPHABET, reference_letters
from minillm.models.gpt2 import GPT2, GPT2Config

PARTS = 8  # of the batch whose gradients are added
RANKS = (1, 2, 3, 4, 5, 8)  # that share these parts
SEED = 1


class Step(NamedTuple):
    """A rank's array before, between and after the two collectives, and the bytes sent in each."""

    before: np.ndarray
    reduced: np.ndarray
    after: np.ndarray
    sent: tuple[int, int]
    own: slice  # of the rank


def collectives(ranks: int) -> list[Step]:
    """The sum of 10^rank (1, 2, ..., 2 N): a digit of the result for each rank that took part."""
    bounds = equal_bounds(2 * ranks, ranks)
    nodes = [[(rank, rank + 1)] for rank in range(ranks)]

    def program(communicator) -> Step:
        array = np.float32(10**communicator.rank) * np.arange(1, 2 * ranks + 1, dtype=np.float32)
        before = array.copy()
        communicator.reduce_scatter(Terms(ranks, nodes, [array]), bounds)
        reduced = array.copy()
        communicator.all_gather(array, bounds)
        own = slice(*bounds[communicator.rank : communicator.rank + 2])
        return Step(before, reduced, array, (communicator.sent["reduce_scatter"], communicator.sent["all_gather"]), own)

    return run_ranks(ranks, program)


def part_gradients() -> list[np.ndarray]:
    """The gradient of a small GPT-2 for each of PARTS windows of a text, as flat float32 arrays."""
    config = GPT2Config(len(ALPHABET), context_length=32, n_layer=2, n_head=4, d_model=64)
    model = GPT2(config, seed=SEED)
    letters, _ = reference_letters()
    ids, targets = random_windows(letters, PARTS, config.context_length, stream(SEED, "batch", 0))
    layout = Layout({name: parameter.value.shape for name, parameter in model.parameters().items()})
    gradients = []
    for part in range(PARTS):
        model.loss(ids[part : part + 1], targets[part : part + 1])
        model.backward()
        gradients.append(np.zeros(layout.size, np.float32))
        for name, view in layout.views(gradients[-1]).items():
            view[...] = model.parameters()[name].grad
        model.zero_grad()
    return gradients


def order_of_sums(gradients) -> dict[str, dict[int, float]]:
    """The share of the numbers that are not those of one rank, for each number of ranks: with parts
    added as they come, and along the tree.
    """
    apart = {"as they come": {}, "along the tree": {}}
    for ranks in RANKS:
        for way, add in (("as they come", as_they_come), ("along the tree", along_the_tree)):
            total, alone = add(gradients, ranks), add(gradients, 1)
            apart[way][ranks] = float((total != alone)[alone != 0].mean())
    return apart


def as_they_come(gradients, ranks: int) -> np.ndarray:
    """Each rank adds its parts one after the other; then the ranks' sums are added likewise."""
    sums = [sum(gradients[part] for part in parts_of(rank, ranks, PARTS)) for rank in range(ranks)]
    return sum(sums)


def along_the_tree(gradients, ranks: int) -> np.ndarray:
    """Each rank adds what forms whole nodes of the tree; reduce_scatter adds those."""
    nodes = [nodes_of(parts_of(rank, ranks, PARTS), PARTS) for rank in range(ranks)]
    bounds = equal_bounds(gradients[0].size, ranks)

    def program(communicator) -> np.ndarray:
        parts = parts_of(communicator.rank, ranks, PARTS)
        known = {(part, part + 1): gradients[part].copy() for part in parts}
        arrays = [add_up(known, node) for node in nodes[communicator.rank]]
        return communicator.reduce_scatter(Terms(PARTS, nodes, arrays), bounds)

    return np.concatenate(run_ranks(ranks, program))
