"""A communicator: the few ways in which ranks exchange arrays, each with its formula and its cost.

A rank is one of N processes that run the same program, numbered from 0. All of them call the same
methods in the same order; a call returns once this rank has what it needs. With P bytes in an
array, a rank sends

    reduce_scatter   g_r <- (sum over ranks i of x_i) [slice of r]       P (N - 1) / N
    all_gather       x[slice of r] <- that of rank r, for all r          P (N - 1) / N
    broadcast        x <- x of one rank                                  P, in all (N - 1) P
    sum              x <- sum over ranks i of x_i                        2 P (N - 1) / N
    barrier          no rank goes on before all are here                0

sum = reduce_scatter, then all_gather: this is why a sharded optimizer, which calls the two with its
step between them, costs no more than plain data parallelism, which needs the sum.

Sums are added along one fixed tree (tree.py), so that they have the same bits for every number of
ranks. A transport says where it cannot promise this (NCCL adds in an order of its own).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from minillm.distributed.tree import Node
from minillm.errors import UserError


class RankLost(UserError):
    """A rank has ended, or does not answer, so that the others cannot go on.

    rank: the one that is lost, None where the transport cannot tell which. step: the step of the
    training, None outside of one. collective: the one in which this was noticed, "" outside of any.
    why: how the rank ended, in a few words.
    """

    def __init__(self, rank: int | None, step: int | None, collective: str, why: str):
        who = "a rank" if rank is None else f"rank {rank}"
        where = collective if step is None else f"step {step}, {collective or 'between two collectives'}"
        super().__init__(f"{who} is lost{' in ' + where if where else ''}: {why}")
        self.rank, self.step, self.collective, self.why = rank, step, collective, why


@dataclass
class Terms:
    """What a rank brings to a sum over the parts of a batch.

    nodes: for each rank the nodes of the tree that it has, in order. arrays: this rank's term for
    each of its nodes, all of one length. everyone: where ranks share memory, the arrays of each
    rank; else None. parts: how many parts the tree has.
    """

    parts: int
    nodes: list[list[Node]]
    arrays: list
    everyone: list[list] | None = None


class Communicator(ABC):
    """A transport derives from this.

    rank, size: this process, and how many there are. where: how messages call the transport.
    shares_memory: whether arrays from `shared` are the same memory in all ranks. sent: bytes that
    this rank has handed to others so far, by the name of the collective. doing: the collective that
    this rank is in, "" outside of any; step: the step of the training that it is in, None outside
    of one; both for messages when something goes wrong. phase: long work that only this rank does,
    "" outside of any. launched: whether something else has started the ranks (mpiexec, SLURM), and
    ends all if one ends.
    """

    rank = 0
    size = 1
    where = "alone"
    shares_memory = False
    launched = False

    def __init__(self):
        self.sent: Counter[str] = Counter()
        self.doing = ""
        self.step: int | None = None
        self.phase = ""

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Inside, the others wait for this rank longer than the deadline (watch.py). phase: what it
        does, such as "writing a checkpoint".
        """
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def __copy__(self) -> Communicator:
        """Itself: a copy of a model's layer exchanges arrays with the same ranks."""
        return self

    # ------------------------------------------------------------------------------------ memory

    def shared(self, count: int, dtype) -> np.ndarray:
        """Memory (count,), zeros, that all ranks see where they share memory; else of this rank."""
        return np.zeros(count, dtype)

    def of_each(self, count: int, dtype) -> list[np.ndarray] | None:
        """Memory (count,), zeros, for each rank, which all ranks see; None where ranks share none,
        and each makes its own.
        """
        return None

    def start(self) -> None:  # noqa: B027
        """Called once by all ranks, when all memory that they share has been made: from here on
        they exchange arrays. A transport that makes its own processes makes them here; it returns
        in each of them.
        """

    # ------------------------------------------------------------------------------- collectives

    @abstractmethod
    def reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        """The sum of all ranks' terms over [bounds[rank], bounds[rank + 1]) of their arrays:
        written into this place of the first of this rank's arrays, and returned, a view of it.

        A rank without terms has an array for the result all the same: arrays has one entry then,
        and nodes[rank] is empty.
        """

    @abstractmethod
    def all_gather(self, array, bounds: Sequence[int]) -> None:
        """array (n,): each rank's [bounds[rank], bounds[rank + 1]) goes to all others, in place."""

    @abstractmethod
    def broadcast(self, array, root: int = 0) -> None:
        """array: that of the rank `root` goes to all others, in place."""

    @abstractmethod
    def sum(self, array) -> None:
        """array: the sum over all ranks, in place, added along the tree over the ranks."""

    @abstractmethod
    def maximum(self, array) -> None:
        """array: the largest over all ranks, in place, element by element."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def start_reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        """As `reduce_scatter`, without waiting: a function to call for the result. No array may be
        written into before that.
        """
        result = self.reduce_scatter(terms, bounds)
        return lambda: result

    def split(self, colour: int, key: int) -> Communicator:
        """The communicator of those ranks that give the same colour, ordered by key."""
        raise NotImplementedError(f"{self.where}: ranks cannot be split into groups")

    @property
    def same_bits(self) -> bool:
        """Whether sums have the same bits for any number of ranks."""
        return True

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """For a transport, around a collective: its name for messages. It is kept where an
        exception ends the collective.
        """
        self.doing = name
        yield
        self.doing = ""

    def close(self) -> None:
        """End it: other ranks are waited for. Called by all ranks, once."""
        self.barrier()


def equal_bounds(count: int, ranks: int) -> list[int]:
    """ranks + 1 positions that cut `count` elements into shares that differ by one at most."""
    return [count * rank // ranks for rank in range(ranks + 1)]
