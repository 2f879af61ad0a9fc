"""Processes of this machine as ranks: they read each other's arrays where they lie.

With threads of one process the work between the matrix products waits for Python's lock; processes
have a lock each. They share memory, so that a collective moves little:

    reduce_scatter   a rank adds its own slice, of the arrays of all ranks, along the tree
    all_gather       of shared memory: nothing is left to do but to wait for each other

All other arrays pass through a staging area, in pieces that stay in a cache. Bytes that a rank
takes from another one's memory count as sent by that one, as if they had been sent.

A barrier is that of Hensgen, Finkel and Manber ("Two algorithms for barrier synchronization",
1988): in round k = 0, 1, ... rank r sends a word to r + 2^k and waits for that of r - 2^k. After
ceil(log2 N) rounds every rank has heard, through others, of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from minillm.distributed.communicator import Communicator, Terms, equal_bounds
from minillm.distributed.processes import CHANNELS, NO_STEP, Processes, shared_memory
from minillm.distributed.tree import Node, add_up, write_sum

BLOCK = 1 << 14  # elements added at a time: those of a few arrays fit a core's cache
STAGING = 1 << 18  # bytes that a rank stages at a time


class Workers(Communicator):
    """`size` processes of this machine.

    Use it as a context manager. `start` forks, after all shared memory has been made; the rest of
    the block runs in each process. At its end the children end, and rank 0 goes on:

        with Workers(4) as communicator:
            weights = communicator.shared(1000, np.float32)
            communicator.start()
            ...                                              each rank
        ...                                                  rank 0

    deadline: seconds after which a rank that keeps others waiting is given up, 0 for any number; it
    may be changed at any time. A collective, and the end of the block, raise RankLost where a rank
    has ended before; rank 0 raises it at once. Then no child is left. One thread of each rank may
    call collectives.
    """

    where = "processes of this machine"
    shares_memory = True

    def __init__(self, size: int, deadline: float = 0.0):
        self._processes = Processes(size)
        self._ranks, self._channel = list(range(size)), 0
        self._memory: list[np.ndarray] = []  # what is shared; kept, so that nothing else gets its addresses
        self._staging = [shared_memory(CHANNELS * 2 * STAGING, np.uint8).reshape(CHANNELS, 2, -1) for _ in range(size)]
        self._exchanges = 0
        self.size, self.deadline = size, deadline
        super().__init__()

    # ------------------------------------------------------------------------------- start and end

    def start(self) -> None:
        """Fork; returns in each process, with its rank.

        Raises UserError where it cannot be done.
        """
        self._processes.start()
        self.rank = self._processes.rank

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind, error, where) -> None:
        self._processes.end(error, self.deadline)

    @property
    def doing(self) -> str:
        """The collective that this rank is in; all ranks can see it."""
        return self._row["doing"].decode()

    @doing.setter
    def doing(self, name: str) -> None:
        self._row["doing"] = name.encode()

    @property
    def step(self) -> int | None:
        """The step of the training that this rank is in; all ranks can see it."""
        step = int(self._row["step"])
        return None if step == NO_STEP else step

    @step.setter
    def step(self, step: int | None) -> None:
        self._row["step"] = NO_STEP if step is None else step

    @property
    def _row(self) -> np.void:
        return self._processes.table[self._processes.rank]

    # ------------------------------------------------------------------------------------ memory

    def shared(self, count: int, dtype) -> np.ndarray:
        """Memory (count,), zeros, the same in all ranks. To be made before `start`."""
        if self._processes.started:
            raise RuntimeError("memory that processes share has to be made before they are started")
        array = shared_memory(count, dtype)
        self._memory.append(array)
        return array

    def of_each(self, count: int, dtype) -> list[np.ndarray]:
        """Memory (count,), zeros, for each rank. To be made before `start`."""
        return [self.shared(count, dtype) for _ in range(self.size)]

    def _is_shared(self, array: np.ndarray) -> bool:
        address = array.ctypes.data
        return any(0 <= address - memory.ctypes.data < memory.nbytes for memory in self._memory)

    # ------------------------------------------------------------------------------- collectives

    def reduce_scatter(self, terms: Terms, bounds: Sequence[int]) -> np.ndarray:
        """Each rank adds its own slice of all arrays, at the same time as the others do theirs."""
        own = slice(bounds[self.rank], bounds[self.rank + 1])
        result = terms.arrays[0][own]
        with self._during("reduce_scatter"):
            if terms.everyone is None:
                self._reduce_scatter_staged(terms, bounds, result)
            else:
                terms_of_nodes = _numbered(terms)
                self._wait_for_all()
                for start in range(own.start, own.stop, BLOCK):
                    block = slice(start, min(start + BLOCK, own.stop))
                    known = {node: terms.everyone[rank][i][block] for node, rank, i in terms_of_nodes}
                    write_sum(known, (0, terms.parts), result[start - own.start : block.stop - own.start])
                self._wait_for_all()  # before this, arrays may still be read
        others = (bounds[-1] - bounds[0] - result.size) * result.itemsize
        self.sent["reduce_scatter"] += others * len(terms.nodes[self.rank])
        return result

    def start_reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        """All work is done at the end: nothing travels meanwhile; adding is this core's work."""
        return lambda: self.reduce_scatter(terms, bounds)

    def all_gather(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Of shared memory a barrier; else pieces of all slices at a time."""
        with self._during("all_gather"):
            if self._is_shared(array):
                self._wait_for_all()
            else:
                self._gather(array, bounds)
        self.sent["all_gather"] += (bounds[self.rank + 1] - bounds[self.rank]) * array.itemsize * (self.size - 1)

    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        """Of shared memory a barrier; else one piece at a time."""
        with self._during("broadcast"):
            if self._is_shared(array):
                self._wait_for_all()
            else:
                for piece in _pieces(array):
                    staged = self._exchanged(piece if self.rank == root else piece[:0])
                    piece[:] = staged[root][: piece.size]
        self.sent["broadcast"] += array.nbytes * (self.size - 1) if self.rank == root else 0

    def sum(self, array: np.ndarray) -> None:
        """Each rank adds an equal share of each piece, and all shares are gathered."""
        with self._during("sum"):
            for piece in _pieces(array):
                self._reduce(piece, lambda parts: add_up({(i, i + 1): p for i, p in enumerate(parts)}, (0, self.size)))

    def maximum(self, array: np.ndarray) -> None:
        """As `sum`."""
        with self._during("maximum"):
            for piece in _pieces(array):
                self._reduce(piece, np.maximum.reduce)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        with self._during("barrier"):
            self._wait_for_all()

    def split(self, colour: int, key: int) -> Group:
        """The ranks that give the same colour, ordered by key. Their arrays are staged."""
        with self._during("split"):
            mine = np.array([colour, key, self._processes.channels_used], np.int64)
            rows = [staged[:3] for staged in self._exchanged(mine)]
        channel = max(int(row[2]) for row in rows)
        if channel == CHANNELS:
            raise RuntimeError(f"ranks can be split into groups {CHANNELS - 1} times at most")
        self._processes.channels_used = channel + 1
        members = sorted((int(row[1]), rank) for rank, row in enumerate(rows) if row[0] == colour)
        return Group(self, [self._ranks[rank] for _, rank in members], channel)

    # ------------------------------------------------------------------------------------ the parts

    @contextmanager
    def _during(self, name: str) -> Iterator[None]:
        """An error leaves `doing` as it is."""
        self.doing = name
        yield
        self.doing = ""

    def _wait_for_all(self) -> None:
        self._row["entered"][self._channel] += 1
        distance = 1
        while distance < self.size:
            to, sender = ((self.rank + step) % self.size for step in (distance, -distance))
            self._processes.send(self._ranks[to], self._channel)
            self._processes.wait_for(self._ranks[sender], self._channel, self.deadline, self._ranks)
            distance *= 2

    def _exchanged(self, mine: np.ndarray) -> list[np.ndarray]:
        """What each rank stages, of the dtype of `mine`, and longer than that: to be read before
        this rank comes to the next exchange.

        The two halves of an area take turns. Between the exchanges k and k + 2, which use the same
        half, lies the barrier of k + 1: a rank that leaves it knows that all have come to it, and
        so have read what they were given in k.
        """
        half = self._exchanges % 2
        self._exchanges += 1
        areas = [self._staging[rank][self._channel, half].view(mine.dtype) for rank in self._ranks]
        areas[self.rank][: mine.size] = mine
        self._wait_for_all()
        return areas

    def _gather(self, array: np.ndarray, bounds: Sequence[int]) -> None:
        """Slices of any length: in each round at most a piece of each."""
        for places in _rounds(bounds, STAGING // array.itemsize):
            for rank, (place, staged) in enumerate(zip(places, self._exchanged(array[places[self.rank]]))):
                if rank != self.rank:
                    array[place] = staged[: place.stop - place.start]

    def _reduce_scatter_staged(self, terms: Terms, bounds: Sequence[int], result: np.ndarray) -> None:
        """In each round every rank stages, of each of its terms, a piece of each slice."""
        arrays = terms.arrays[: len(terms.nodes[self.rank])]
        most = self.size * max(len(nodes) for nodes in terms.nodes)
        for places in _rounds(bounds, STAGING // result.itemsize // most):
            ends = np.cumsum([0, *(place.stop - place.start for place in places)])
            mine = np.concatenate([array[place] for array in arrays for place in places] or [result[:0]])
            staged, first, size = self._exchanged(mine), ends[self.rank], ends[self.rank + 1] - ends[self.rank]
            known = {node: staged[rank][i * ends[-1] + first :][:size] for node, rank, i in _numbered(terms)}
            start = places[self.rank].start - bounds[self.rank]
            write_sum(known, (0, terms.parts), result[start : start + size])

    def _reduce(self, piece: np.ndarray, reduce) -> None:
        """piece (n,) becomes reduce([that of each rank]), each share of it computed by one rank."""
        bounds = equal_bounds(piece.size, self.size)
        own = slice(*bounds[self.rank : self.rank + 2])
        piece[own] = reduce([staged[own] for staged in self._exchanged(piece)])
        self._gather(piece, bounds)
        self.sent[self.doing] += (piece.size - (own.stop - own.start)) * piece.itemsize  # its terms, to others
        self.sent[self.doing] += (own.stop - own.start) * piece.itemsize * (self.size - 1)  # its sums, to all


class Group(Workers):
    """Some of the ranks of another communicator. Its arrays are of each rank's own memory."""

    shares_memory = False

    def __init__(self, all_ranks: Workers, ranks: list[int], channel: int):
        self._processes, self._staging = all_ranks._processes, all_ranks._staging
        self._ranks, self._channel = ranks, channel
        self._memory, self._exchanges = [], 0
        self.rank, self.size = ranks.index(self._processes.rank), len(ranks)
        self.deadline = all_ranks.deadline
        Communicator.__init__(self)

    def shared(self, count: int, dtype) -> np.ndarray:
        """Memory of this rank."""
        return np.zeros(count, dtype)

    def of_each(self, count: int, dtype) -> None:
        """None: each rank makes its own."""


def _numbered(terms: Terms) -> list[tuple[Node, int, int]]:
    """(node, its rank, its number there) for the nodes of all ranks."""
    return [(node, rank, i) for rank, nodes in enumerate(terms.nodes) for i, node in enumerate(nodes)]


def _rounds(bounds: Sequence[int], count: int) -> Iterator[list[slice]]:
    """For each rank the next piece of its slice, at most `count` elements, until none is left."""
    both = list(zip(bounds, bounds[1:]))
    for offset in range(0, max(stop - start for start, stop in both), count):
        yield [slice(min(start + offset, stop), min(start + offset + count, stop)) for start, stop in both]


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The elements of an array in C order, as views of as many as are staged at a time."""
    if not array.flags.c_contiguous:
        raise ValueError("a collective takes arrays in C order")
    flat, count = array.reshape(-1), STAGING // array.itemsize
    for start in range(0, flat.size, count):
        yield flat[start : start + count]
