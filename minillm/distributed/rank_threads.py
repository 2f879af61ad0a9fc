"""Ranks as threads of one process: for lessons and tests, where every rank can be watched.

They exchange arrays as separate processes would: a rank reads what the others give, and changes
only its own arrays. No speed is gained over `Alone`; it is the plainest transport that has more
than one rank, and the reference for the others.

>>> def program(communicator):
...     array = np.array([1.0 + communicator.rank])
...     communicator.sum(array)
...     return float(array[0])
>>> run_ranks(3, program)
[6.0, 6.0, 6.0]
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

import numpy as np

from minillm.distributed.communicator import Communicator, Terms, equal_bounds
from minillm.distributed.tree import Node, add_up

DEADLINE = 60.0  # seconds: a rank that does not come to a collective is given up


def run_ranks(
    size: int, program: Callable[[RankThreads], object], shares_memory: bool = False, deadline: float = DEADLINE
) -> list:
    """Run `program(communicator)` in `size` threads, one a rank; returns what each rank returned.

    shares_memory: arrays from `shared` and `of_each` are the same in all ranks, as for processes of
    one machine; otherwise each rank has its own, as under MPI. deadline: seconds that a rank waits
    for the others.

    An exception of a rank ends all ranks at their next collective, and is raised here: that of the
    lowest rank. Its attribute `of_ranks` lists the exception of each rank, or None. Raises
    RuntimeError where ranks are in different collectives, or one never comes.
    """
    group = _Group(size, shares_memory, deadline)
    results: list = [None] * size
    errors: dict[int, BaseException] = {}
    ended: SimpleQueue[int] = SimpleQueue()

    def run(rank: int) -> None:
        try:
            results[rank] = program(RankThreads(rank, group))
        except BaseException as error:
            errors[rank] = error
            group.barrier.abort()  # the others are not left waiting
        ended.put(rank)

    for rank in range(size):
        threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True).start()
    with suppress(Empty):  # a rank that hangs is left behind
        for _ in range(size):
            ended.get(timeout=deadline if group.barrier.broken else None)
    for rank in sorted(errors, key=lambda rank: (isinstance(errors[rank], OthersEnded), rank)):
        errors[rank].of_ranks = [errors.get(other) for other in range(size)]
        raise errors[rank]
    return results


class RankThreads(Communicator):
    """One of the ranks that `run_ranks` started."""

    where = "threads"

    def __init__(self, rank: int, group: _Group):
        super().__init__()
        self.rank, self.size, self.shares_memory = rank, group.size, group.shares_memory
        self._group = group

    # ------------------------------------------------------------------------------------ memory

    def shared(self, count: int, dtype) -> np.ndarray:
        own = super().shared(count, dtype)
        if not self.shares_memory:
            return own
        with self._given("shared", own) as given:
            return given[0]

    def of_each(self, count: int, dtype) -> list[np.ndarray] | None:
        if not self.shares_memory:
            return None
        with self._given("of_each", np.zeros(count, dtype)) as given:
            return list(given)

    # ------------------------------------------------------------------------------- collectives

    def reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        """Each rank reads its slice of all terms, and adds them along the tree."""
        with self._given("reduce_scatter", terms.arrays) as given:
            return self._reduced("reduce_scatter", terms.parts, terms.nodes, given, bounds)

    def all_gather(self, array, bounds: Sequence[int]) -> None:
        """Each rank reads the slices of the others."""
        with self._given("all_gather", array) as given:
            self._gathered("all_gather", given, bounds)

    def broadcast(self, array, root: int = 0) -> None:
        """Each rank reads the array of the root."""
        with self._given("broadcast", array) as given:
            if self.rank == root:
                self.sent["broadcast"] += array.nbytes * (self.size - 1)
            else:
                array[...] = given[root]

    def sum(self, array) -> None:
        """reduce_scatter, then all_gather: each rank is one part of the tree."""
        flat, bounds = array.reshape(-1), equal_bounds(array.size, self.size)
        nodes = [[(rank, rank + 1)] for rank in range(self.size)]
        with self._given("sum", [flat]) as given:
            self._reduced("sum", self.size, nodes, given, bounds)
        with self._given("sum", flat) as given:
            self._gathered("sum", given, bounds)
        array[...] = flat.reshape(array.shape)

    def maximum(self, array) -> None:
        """Each rank reads all arrays."""
        with self._given("maximum", array.copy()) as given:
            for other in given:
                np.maximum(array, other, out=array)
            self.sent["maximum"] += array.nbytes * (self.size - 1)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        with self._given("barrier", None):
            pass

    def split(self, colour: int, key: int) -> RankThreads:
        """The communicator of the ranks that give the same colour, ordered by key, then by rank."""
        with self._given("split", (colour, key)) as given:
            members = sorted((k, rank) for rank, (c, k) in enumerate(given) if c == colour)
        group = _Group(len(members), self.shares_memory, self._group.deadline)
        with self._given("split", group) as given:
            return RankThreads(members.index((key, self.rank)), given[members[0][1]])

    # ----------------------------------------------------------------------------------- helpers

    def _reduced(self, name: str, parts: int, nodes: list[list[Node]], given, bounds: Sequence[int]):
        """The sum of this rank's slice over the arrays given, written into its own first one."""
        own = slice(bounds[self.rank], bounds[self.rank + 1])
        known = {node: array[own].copy() for rank in range(self.size) for node, array in zip(nodes[rank], given[rank])}
        result = given[self.rank][0][own]
        self.sent[name] += len(nodes[self.rank]) * (bounds[-1] - bounds[0] - len(result)) * result.itemsize
        result[...] = add_up(known, (0, parts))
        return result

    def _gathered(self, name: str, given, bounds: Sequence[int]) -> None:
        array = given[self.rank]
        for rank, other in enumerate(given):
            place = slice(bounds[rank], bounds[rank + 1])
            if np.may_share_memory(array[place], other[place]):
                continue  # this rank's own slice; of shared memory, every slice
            array[place] = other[place]
            self.sent[name] += array[slice(bounds[self.rank], bounds[self.rank + 1])].nbytes

    @contextmanager
    def _given(self, name: str, value) -> Iterator[list]:
        """What all ranks give to a collective, in their order; at the end all are done with it."""
        self.doing = name
        self._group.given[self.rank] = name, value
        self._group.wait(self.rank, name)
        if len({other for other, _ in self._group.given}) > 1:
            calls = ", ".join(f"rank {rank} {other}" for rank, (other, _) in enumerate(self._group.given))
            raise RuntimeError(f"the ranks are in different collectives: {calls}")
        yield [value for _, value in self._group.given]
        self._group.wait(self.rank, name)
        self.doing = ""


class OthersEnded(RuntimeError):
    """This rank waited for one that has ended, or that did not come."""


class _Group:
    """What the ranks share. given: for each rank its collective, and what it gives to it."""

    def __init__(self, size: int, shares_memory: bool, deadline: float):
        self.size, self.shares_memory, self.deadline = size, shares_memory, deadline
        self.given: list = [None] * size
        self.barrier = _Barrier(size)

    def wait(self, rank: int, name: str) -> None:
        """Until all ranks are here."""
        try:
            self.barrier.wait(self.deadline)
        except threading.BrokenBarrierError:
            raise OthersEnded(f"rank {rank} waited in {name} for ranks that have ended, or never came") from None


class _Barrier:
    """As threading.Barrier, but `abort` does not end a wait for which all ranks have come already.

    So what all ranks refuse together is refused by each of them, in whatever order they raise.
    """

    def __init__(self, size: int):
        self._size, self._here, self._round, self.broken = size, 0, 0, False
        self._changed = threading.Condition()

    def wait(self, timeout: float) -> None:
        """Until all are here. Raises BrokenBarrierError after `abort`, or `timeout` seconds."""
        with self._changed:
            this = self._round
            self._here += 1
            if self._here == self._size and not self.broken:
                self._here, self._round = 0, this + 1
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._round > this or self.broken, timeout)
            if self._round == this:
                self.broken = True
                self._changed.notify_all()
                raise threading.BrokenBarrierError

    def abort(self) -> None:
        """End every wait for which not all have come."""
        with self._changed:
            self.broken = True
            self._changed.notify_all()
