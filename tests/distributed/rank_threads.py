"""Ranks that are threads of the test process: what several processes do, without processes.

    def task(communicator):
        array = np.full(4, communicator.rank, np.float32)
        communicator.sum(array)
        return array

    assert [list(array) for array in on_ranks(3, task)] == [[3, 3, 3, 3]] * 3

Each rank has memory of its own, as under MPI; with shares_memory=True `shared` and `of_each` give
memory that all see, as on one machine. A rank that raises ends the others at their next collective.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from contextvars import copy_context

import numpy as np

from minillm.distributed.communicator import Communicator, Terms
from minillm.distributed.tree import add_up

DEADLINE = 60.0  # seconds that a rank waits for the others, so that a test that went wrong ends


class RankLost(Exception):
    """Another rank has raised an error, or has not come within DEADLINE."""


def on_ranks(size: int, task: Callable, *arguments, shares_memory: bool = False) -> list:
    """[task(communicator, *arguments) of rank 0, of rank 1, ...]

    Raises the error of the first rank, in the order of ranks, that has raised one of its own. Its
    attribute `of_ranks` has the error of each rank, or None.
    """
    group = _Group(size)
    results, errors = [None] * size, [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = task(RankThread(group, rank, shares_memory), *arguments)
        except BaseException as error:  # handed on below
            errors[rank] = error
            group.barrier.abort()

    threads = [threading.Thread(target=copy_context().run, args=(run, rank), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = [error for error in errors if error is not None and not isinstance(error, RankLost)]
    for error in own or [error for error in errors if error is not None]:
        error.of_ranks = errors
        raise error
    return results


class _Group:
    """What the threads of a communicator share."""

    def __init__(self, size: int):
        self.size, self.values = size, [None] * size
        self.barrier = _Barrier(size)


class _Barrier:
    """As threading.Barrier, but that `abort` leaves those alone for whom all have come already."""

    def __init__(self, size: int):
        self._size, self._here, self._round, self._is_broken = size, 0, 0, False
        self._changed = threading.Condition()

    def wait(self) -> None:
        with self._changed:
            this = self._round
            self._here += 1
            if self._here == self._size and not self._is_broken:
                self._here, self._round = 0, this + 1
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._round > this or self._is_broken, DEADLINE)
            if self._round == this:
                raise threading.BrokenBarrierError

    def abort(self) -> None:
        with self._changed:
            self._is_broken = True
            self._changed.notify_all()


class RankThread(Communicator):
    """One rank of `on_ranks`."""

    where = "threads"

    def __init__(self, group: _Group, rank: int, shares_memory: bool = False):
        super().__init__()
        self._group, self.rank, self.size, self.shares_memory = group, rank, group.size, shares_memory

    def exchange(self, value) -> list:
        """The values of all ranks, in order. They may be changed after the next `barrier` only."""
        self._wait()
        self._group.values[self.rank] = value
        self._wait()
        return list(self._group.values)

    def shared(self, count: int, dtype) -> np.ndarray:
        if not self.shares_memory:
            return super().shared(count, dtype)
        return self.exchange(np.zeros(count, dtype) if self.rank == 0 else None)[0]

    def of_each(self, count: int, dtype) -> list[np.ndarray] | None:
        return self.exchange(np.zeros(count, dtype)) if self.shares_memory else None

    def reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        with self._inside("reduce_scatter"):
            place = slice(*bounds[self.rank : self.rank + 2])
            own = len(terms.nodes[self.rank])
            known = {}
            for nodes, arrays in zip(terms.nodes, self.exchange(terms.arrays)):
                known |= {node: array[place].copy() for node, array in zip(nodes, arrays)}
            total = add_up(known, (0, terms.parts))
            self._wait()  # all have read before one writes
            result = terms.arrays[0][place]
            result[...] = total
            self._count("reduce_scatter", own * (terms.arrays[0][bounds[0] : bounds[-1]].nbytes - result.nbytes))
            return result

    def all_gather(self, array, bounds: Sequence[int]) -> None:
        with self._inside("all_gather"):
            for rank, theirs in enumerate(self.exchange(array)):
                place = slice(*bounds[rank : rank + 2])
                if rank != self.rank and not self.shares_memory:
                    array[place] = theirs[place]
            self._wait()
            self._count("all_gather", array[slice(*bounds[self.rank : self.rank + 2])].nbytes * (self.size - 1))

    def broadcast(self, array, root: int = 0) -> None:
        with self._inside("broadcast"):
            theirs = self.exchange(array)[root]
            if self.rank != root:
                array[...] = theirs
            self._wait()
            self._count("broadcast", array.nbytes if self.rank == root else 0)

    def sum(self, array) -> None:
        with self._inside("sum"):
            known = {(rank, rank + 1): theirs.copy() for rank, theirs in enumerate(self.exchange(array))}
            self._wait()
            array[...] = add_up(known, (0, self.size))
            self._count("sum", 2 * array.nbytes * (self.size - 1) // self.size)

    def maximum(self, array) -> None:
        with self._inside("maximum"):
            found = np.maximum.reduce([theirs.copy() for theirs in self.exchange(array)])
            self._wait()
            array[...] = found
            self._count("maximum", 2 * array.nbytes * (self.size - 1) // self.size)

    def barrier(self) -> None:
        with self._inside("barrier"):
            self._wait()

    def split(self, colour: int, key: int) -> RankThread:
        everyone = self.exchange((colour, key, _Group))
        members = sorted((key, rank) for rank, (theirs, key, _) in enumerate(everyone) if theirs == colour)
        place = members.index((key, self.rank))
        groups = self.exchange(_Group(len(members)) if place == 0 else None)
        return RankThread(groups[members[0][1]], place, self.shares_memory)

    @contextmanager
    def _inside(self, name: str):
        self.doing = name
        yield
        self.doing = ""  # kept where an error ends it

    def _wait(self) -> None:
        try:
            self._group.barrier.wait()
        except threading.BrokenBarrierError:
            raise RankLost(f"rank {self.rank}: another rank is lost, in {self.doing or 'an exchange'}") from None

    def _count(self, name: str, count: int) -> None:
        self.sent[name] += count
