r"""Sharded gradients (ZeRO-2): a rank keeps the gradients of what it owns, and of the block at
hand.

Source: Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models" (SC 2020), section 5.2. Where a block's `backward` returns, its gradients are
complete. Their sum over the ranks starts, each rank keeps its share of the sum, and their memory is
free for another block. While the sum is under way, the next block's backward runs:

    backward     | above | block 3 | block 2 | block 1 | block 0 | below |
    sums                 | above   | block 3 | block 2 | block 1 | block 0 | below |
    memory          E        A         B         A         B        E

So two blocks have memory at a time, A and B, and what lies below and above the blocks, E: with tied
embeddings the gradient of the one matrix begins at the top and is complete at the bottom.

With S parts, N ranks and T threads a rank the parts are dealt in rounds: in round k worker w of N T
has part k N T + w. The parts of a round follow each other, and so their sum is one node of the tree
where N T is a power of two, and a few nodes else. A rank adds the sums of the rounds along the
tree, for its share alone. With P gradients, of which p are in the largest block and e below and
above:

    memory    P  ->  m P / N + T (2 p + e)     m = log2(S / (N T)) + 1, rounded up
    sent      P (N-1)/N  ->  the same for each round, of which there are S / (N T), rounded up

To send no more than ZeRO-1, let S = N T. With gradient accumulation a part's gradient is that of
several passes, and is complete in the last one: until then it needs an array of P for each thread.
"""

from __future__ import annotations

import numpy as np

from minillm.distributed.communicator import Communicator, Terms
from minillm.distributed.layout import Layout
from minillm.distributed.tree import Node, Running, add_up, nodes_of


class Rounds:
    """Who computes which part where gradients or weights are sharded: all ranks go through the
    model at the same time, as often as `count` says.
    """

    def __init__(self, parts: int, ranks: int, threads: int):
        self.parts, self.ranks, self.threads = parts, ranks, threads
        self.count = -(-parts // (ranks * threads))

    def part(self, number: int, rank: int, thread: int) -> int | None:
        """The part of a thread in a round, None where there is none left for it."""
        part = (number * self.ranks + rank) * self.threads + thread
        return part if part < self.parts else None

    def of_rank(self, number: int, rank: int) -> range:
        """The parts of a rank in a round."""
        first = (number * self.ranks + rank) * self.threads
        return range(min(first, self.parts), min(first + self.threads, self.parts))

    def nodes(self, number: int) -> list[Node]:
        """The nodes of the tree that the parts of a round form."""
        parts = range(self.of_rank(number, 0).start, self.of_rank(number, self.ranks - 1).stop)
        return nodes_of(parts, self.parts)

    def slots(self) -> int:
        """How many arrays the sum of all rounds needs: m."""
        most, running = 0, Running(self.parts, lambda i, j: None)
        for number in range(self.count):
            for node in self.nodes(number):
                most = max(most, running.slot() + 1)
                running.added(*node)
        return most


class OwnShare:
    """What a rank owns of a flat buffer, with no memory for the rest: share[place] for a place in
    the buffer, inside one of the slices owned.
    """

    def __init__(self, owned: list[slice], memory):
        self.memory, self._owned, self._starts, position = memory, owned, [], 0
        for place in owned:
            self._starts.append(position)
            position += place.stop - place.start

    def __getitem__(self, place: slice):
        for own, start in zip(self._owned, self._starts):
            if own.start <= place.start and place.stop <= own.stop and own.start < own.stop:
                return self.memory[start + place.start - own.start : start + place.stop - own.start]
        if place.start == place.stop:
            return self.memory[:0]
        raise IndexError(f"elements {place.start} to {place.stop} are not owned by this rank")


class ShardedGradients:
    """The gradients of one rank. Allocates memory of the communicator, which all ranks do together.

    layout: with the sections of model_sections.py; above_first: see there. keeps_all: an array of
    all gradients for each thread, for gradient accumulation.
    """

    def __init__(
        self,
        layout: Layout,
        dtype,
        rounds: Rounds,
        communicator: Communicator,
        above_first: bool = False,
        keeps_all: bool = False,
    ):
        self.layout, self.rounds, self.communicator = layout, rounds, communicator
        sizes = [section.stop - section.start for section in layout.sections]
        self._starts, self._of_thread = places_of_sections(sizes, above_first, keeps_all)
        count = rounds.threads * self._of_thread + room_for_results(rounds, sizes)
        memory = communicator.of_each(count, dtype)
        self._shares_memory = memory is not None
        self._memory = (
            memory or [np.zeros(count, dtype)] * communicator.size
        )  # of each rank; one that is out of reach: own
        self._names = [[entry.name for entry in layout.entries_of(place)] for place in layout.sections]
        self._slots: list[OwnShare] = []  # made by the first `begin`, once a process knows its rank
        self._started: list[tuple] = []

    @property
    def bytes(self) -> int:
        """Of all arrays of this rank."""
        return self._own.nbytes + sum(slot.memory.nbytes for slot in self._slots)

    @property
    def _own(self):
        return self._memory[self.communicator.rank]

    def begin(self) -> None:
        """Before the first round: nothing is added so far."""
        if not self._slots:
            self._owned = self.layout.owned(self.communicator.rank, self.communicator.size)
            size, dtype = sum(own.stop - own.start for own in self._owned), self._own.dtype
            self._slots = [OwnShare(self._owned, np.zeros(size, dtype)) for _ in range(self.rounds.slots())]
        self._running = [Running(self.rounds.parts, self._adder(place)) for place in self._owned]

    def put_home(self, parameters: dict, thread: int) -> None:
        """Let backward of a thread's model write gradients where they belong."""
        for section, names in enumerate(self._names):
            for name in names:
                parameters[name].home = self._view(self._array(self._own, thread, section), section, name)

    def collect(self, parameters: dict, thread: int, section: int) -> set[str]:
        """Make sure that a section's array has the gradients of a thread's part, and forget those
        of the parameters  ->  the names of parameters that got none.
        """
        missing, array, position = set(), self._array(self._own, thread, section), 0
        start = self.layout.sections[section].start
        for name in self._names[section]:
            parameter, entry, view = parameters[name], self.layout.entries[name], parameters[name].home
            array[position : entry.start - start] = 0  # what another section has left there
            position = entry.place.stop - start
            if parameter.grad is None:
                view[...] = 0
                missing.add(name)
            elif parameter.grad is not view:
                view[...] = parameter.grad
            parameter.home = None
            parameter.zero_grad()
        array[position:] = 0
        return missing

    def reduce(self, section: int, number: int) -> None:
        """Start the sum of a section over the parts of a round, whose arrays are complete. All
        ranks call it for the same sections in the same order. The sum before is done when it
        returns, and the memory of its section is free.
        """
        self.finish()
        place = self.layout.sections[section]
        if place.start == place.stop:
            return
        bounds = [bound - place.start for bound in self.layout.bounds(place, self.communicator.size)]
        rank = self.communicator.rank
        for node in nodes_of(self.rounds.of_rank(number, rank), self.rounds.parts):
            add_up({(p, p + 1): self._term(self._own, rank, p, section, number) for p in range(*node)}, node)
        for node in self.rounds.nodes(number):
            wait = self.communicator.start_reduce_scatter(self._terms(section, number, node), bounds)
            self._started.append((section, node, wait))

    def finish(self) -> None:
        """Wait for the sums that were started, and add them to those of earlier rounds."""
        while self._started:
            section, node, wait = self._started.pop(0)
            running, own = self._running[section], self._owned[section]
            self._slots[running.slot()][own][...] = wait()
            running.added(*node)

    def total(self) -> OwnShare:
        """After the last round: this rank's share of the sum over all parts."""
        return self._slots[0]

    # ------------------------------------------------------------------------------- the arrays

    def _array(self, memory, thread: int, section: int):
        """Where a thread's gradients of a section are, in the memory of a rank."""
        start = thread * self._of_thread + self._starts[section]
        place = self.layout.sections[section]
        return memory[start : start + place.stop - place.start]

    def _view(self, array, section: int, name: str):
        entry, start = self.layout.entries[name], self.layout.sections[section].start
        return array[entry.start - start : entry.place.stop - start].reshape(entry.shape)

    def _term(self, memory, rank: int, part: int, section: int, number: int):
        """The array of the node that begins with a part."""
        return self._array(memory, part - self.rounds.of_rank(number, rank).start, section)

    def _terms(self, section: int, number: int, node: Node) -> Terms:
        """What all ranks bring to the sum of a node, of which the tree is the same as that of a
        batch with so many parts.
        """
        nodes, arrays = [], []
        for rank, memory in enumerate(self._memory):
            parts = self.rounds.of_rank(number, rank)
            inside = range(max(parts.start, node[0]), min(parts.stop, node[1]))
            found = nodes_of(inside, self.rounds.parts)
            nodes.append([(first - node[0], last - node[0]) for first, last in found])
            place = self.layout.sections[section]
            spare = memory[self.rounds.threads * self._of_thread :][: place.stop - place.start]
            arrays.append([self._term(memory, rank, first, section, number) for first, _ in found] or [spare])
        own = arrays[self.communicator.rank]
        return Terms(node[1] - node[0], nodes, own, arrays if self._shares_memory else None)

    def _adder(self, own: slice):
        def add(i: int, j: int) -> None:
            self._slots[i][own][...] += self._slots[j][own]

        return add


def places_of_sections(sizes: list[int], above_first: bool, keeps_all: bool) -> tuple[list[int], int]:
    """Where the array of each section begins in the memory of a thread, and how many elements all
    have together. Two blocks take turns with one place: see above.
    """
    if keeps_all or len(sizes) < 3:
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        return starts, sum(sizes)
    below, *blocks, above = sizes
    pair = [max(blocks[first::2], default=0) for first in (0, 1)]
    ends = max(below, above) if above_first else below + above
    starts = [0, *(ends + (number % 2) * pair[0] for number in range(len(blocks))), 0 if above_first else below]
    return starts, ends + sum(pair)


def room_for_results(rounds: Rounds, sizes: list[int]) -> int:
    """Elements for the sums of sections where a rank has no term, or terms of several sums; where
    each has one, its result takes the place of the term.
    """
    for number in range(rounds.count):
        found = [nodes_of(rounds.of_rank(number, rank), rounds.parts) for rank in range(rounds.ranks)]
        if len(rounds.nodes(number)) > 1 or any(len(nodes) != 1 for nodes in found):
            return max(sizes)
    return 0
