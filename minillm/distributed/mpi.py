"""Ranks that mpiexec or SLURM started, on one machine or many: arrays travel by MPI.

MPI (Message Passing Interface, https://www.mpi-forum.org) is called by mpi4py. Only what MPI 3.0
has is used, so that the library may be MPICH, Open MPI, Intel MPI or that of a cluster. Arrays are
handed over as memory, nothing is pickled.

MPI adds arrays in an order of its own, which depends on the number of ranks. So it only carries
here, and each rank adds what it owns along the tree (tree.py):

    reduce_scatter, N = 3           rank 0       rank 1       rank 2
    each rank has a term            a0 a1 a2     b0 b1 b2     c0 c1 c2
    slice j goes to rank j          a0 b0 c0     a1 b1 c1     a2 b2 c2
    the owner adds                  (a0+b0)+c0   (a1+b1)+c1   (a2+b2)+c2

A rank with k terms, since its parts form k nodes, sends k P (N - 1) / N bytes. It has one where N
divides the number of parts and both are powers of two.

Three things go wrong in many programs that use MPI, and decide how this one waits (`_wait`):

- A blocking call keeps a core busy until it returns. With more ranks than cores it takes that core
  from the rank that it waits for. Measured with 8 ranks on two cores: all_gather of 40 MB 35 ms
  as here, 106 ms where all ranks ask without a pause, 110 ms by the blocking call of MPICH 5.0.
- Python handles no signal during a blocking call, so that SIGTERM would be noticed too late.
- What was started without waiting makes progress only while the rank is inside of MPI.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from minillm.distributed.communicator import Communicator, RankLost, Terms, equal_bounds
from minillm.distributed.layout import CELL
from minillm.distributed.tree import add_up

PIECE = 2**28  # bytes of one call: counts of MPI 3 have 31 bits, and some libraries overflow below that
SMALL = 2**16  # bytes: below this the time of a sum is the number of messages, not their length
PATIENCE = 1e-3  # seconds of asking again at once; then with pauses, which leave the core to others
SHORT_PAUSE, LONG_PAUSE = 5e-5, 5e-4  # seconds


class Mpi(Communicator):
    """The ranks of a communicator of mpi4py. `launch.world` makes the one of all ranks.

    Arrays are in the host's memory and in C order. Raises RankLost where the MPI library notices
    that a rank has ended. world_is_closed: whether all ranks have come to the end.
    """

    world_is_closed = False
    launched = True
    where = "MPI"

    def __init__(self, ranks):
        super().__init__()
        self._ranks, self.rank, self.size = ranks, ranks.Get_rank(), ranks.Get_size()
        self._units: dict[int, object] = {}
        self._unused: dict[tuple[int, np.dtype], list[np.ndarray]] = defaultdict(list)

    # ------------------------------------------------------------------------------- collectives

    def reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        """Each rank's slice goes to it, and it adds. Sends k P (N - 1) / N bytes, with k terms."""
        with self.inside("reduce_scatter"):
            return self._start_reduction(terms, bounds, "reduce_scatter")()

    def start_reduce_scatter(self, terms: Terms, bounds: Sequence[int]) -> Callable:
        """As `reduce_scatter`. Data moves while this rank is in any method, thus also in the next
        start; it needs memory for the own slices of all others.
        """
        with self.inside("reduce_scatter"):
            finish = self._start_reduction(terms, bounds, "reduce_scatter")

        def wait():
            with self.inside("reduce_scatter"):
                return finish()

        return wait

    def all_gather(self, array, bounds: Sequence[int]) -> None:
        """Each rank's slice goes to N - 1 others: P (N - 1) / N bytes, where slices are equal."""
        with self.inside("all_gather"):
            self._gather(_flat(array), bounds, "all_gather")

    def broadcast(self, array, root: int = 0) -> None:
        """(N - 1) P bytes, counted where they come from; MPI lets the receivers pass them on."""
        with self.inside("broadcast"):
            data = _flat(array).view(np.uint8)
            if self.rank == root:
                self.sent["broadcast"] += len(data) * (self.size - 1)
            for start in range(0, len(data), PIECE):
                self._wait([self._ranks.Ibcast(data[start : start + PIECE], root)])

    def sum(self, array) -> None:
        """reduce_scatter and all_gather with one term a rank: 2 P (N - 1) / N bytes. A small array
        is sent as it is to all, P (N - 1) bytes: one exchange in place of two, the same bits.
        """
        with self.inside("sum"):
            flat = _flat(array)
            if flat.nbytes <= SMALL:
                terms = self._everyones(flat, "sum")
                flat[...] = add_up({(rank, rank + 1): term for rank, term in enumerate(terms)}, (0, self.size))
                return
            nodes = [[(rank, rank + 1)] for rank in range(self.size)]
            for window in _windows(flat, PIECE):
                bounds = equal_bounds(len(window), self.size)
                self._start_reduction(Terms(self.size, nodes, [window]), bounds, "sum")()
                self._gather(window, bounds, "sum")

    def maximum(self, array) -> None:
        """All arrays go to all ranks: P (N - 1) bytes. MPI's own maximum would lose a NaN."""
        with self.inside("maximum"):
            for window in _windows(_flat(array), max(SMALL, PIECE // self.size)):
                window[...] = self._everyones(window, "maximum").max(axis=0)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        with self.inside("barrier"):
            self._wait([self._ranks.Ibarrier()])

    def split(self, colour: int, key: int) -> Mpi:
        """The ranks of the same colour."""
        with self.inside("split"):
            return Mpi(self._ranks.Split(colour, key))

    def of_this_node(self) -> Mpi:
        """The ranks on the same machine as this one."""
        from mpi4py import MPI

        with self.inside("split"):
            return Mpi(self._ranks.Split_type(MPI.COMM_TYPE_SHARED, self.rank))

    # -------------------------------------------------------------------------------------- ends

    def close(self) -> None:
        """End it: other ranks are waited for. After that of all ranks MPI may end (launch.py)."""
        from mpi4py import MPI

        self.barrier()
        for unit in self._units.values():
            unit.Free()
        self._units.clear()
        if self._ranks == MPI.COMM_WORLD:
            Mpi.world_is_closed = True
        else:
            self._ranks.Free()

    def abort(self, code: int) -> None:
        """End all ranks now, from any thread. mpiexec returns `code`."""
        self._ranks.Abort(code)

    # ----------------------------------------------------------------------------------- helpers

    def _start_reduction(self, terms: Terms, bounds: Sequence[int], name: str) -> Callable:
        """Start to send each rank its slice of all terms. Returns what waits for them and adds.

        In turn k each rank that has a term k sends it.
        """
        own = slice(*bounds[self.rank : self.rank + 2])
        place, mine = terms.arrays[0][own], terms.nodes[self.rank]
        lengths = _lengths(bounds)
        known = {node: array[own] for node, array in zip(mine, terms.arrays)}
        requests, borrowed = [], []
        for turn in range(max(map(len, terms.nodes))):
            others = [rank for rank, nodes in enumerate(terms.nodes) if turn < len(nodes) and rank != self.rank]
            rows = self._borrow(len(others) * len(place), place.dtype)
            borrowed.append(rows)
            sent = [length * (turn < len(mine) and rank != self.rank) for rank, length in enumerate(lengths)]
            got = [len(place) * (rank in others) for rank in range(self.size)]
            starts = [0, *np.cumsum(got).tolist()]
            array = terms.arrays[turn if turn < len(mine) else 0]
            for out, into in zip(self._pieces(array, bounds, sent), self._pieces(rows, starts, got, bounds)):
                requests.append(self._ranks.Ialltoallv(out, into))
            known.update({terms.nodes[rank][turn]: rows[starts[rank] : starts[rank + 1]] for rank in others})
            self.sent[name] += sum(sent) * place.itemsize

        def finish():
            self._wait(requests)
            total = add_up(known, (0, terms.parts))
            if not np.may_share_memory(total, place):
                place[...] = total
            for rows in borrowed:
                self._unused[len(rows), rows.dtype].append(rows)
            return place

        return finish

    def _gather(self, flat: np.ndarray, bounds: Sequence[int], name: str) -> None:
        """Each rank's slice to all."""
        from mpi4py import MPI

        lengths = _lengths(bounds)
        self._wait([self._ranks.Iallgatherv(MPI.IN_PLACE, piece) for piece in self._pieces(flat, bounds, lengths)])
        self.sent[name] += lengths[self.rank] * (self.size - 1) * flat.itemsize

    def _everyones(self, flat: np.ndarray, name: str) -> np.ndarray:
        """The arrays of all ranks: (ranks, elements)."""
        rows = np.empty((self.size, len(flat)), flat.dtype)
        self._wait([self._ranks.Iallgather(flat.view(np.uint8), rows.view(np.uint8))])
        self.sent[name] += flat.nbytes * (self.size - 1)
        return rows

    def _pieces(self, array: np.ndarray, starts, counts, bounds=None) -> Iterator[list]:
        """An array as MPI takes it, in pieces of at most PIECE bytes: `counts` elements for each
        rank from its start. All ranks make as many pieces, as their bounds are the same.

        Counts and starts of MPI 3 have 31 bits. So they are counted in units: as many elements as
        divide all bounds, a cell at most.
        """
        bounds = starts if bounds is None else bounds
        unit = math.gcd(CELL, *bounds)
        width = max(unit, PIECE // (array.itemsize * self.size) // unit * unit)
        for first in range(0, max(_lengths(bounds)), width):
            some = [min(width, max(0, count - first)) // unit for count in counts]
            places = [(start + min(first, count)) // unit for start, count in zip(starts, counts)]
            yield [array, some, places, self._unit(unit * array.itemsize)]

    def _unit(self, size: int):
        """MPI's type of `size` bytes. So types that it does not know, as bfloat16, are sent too."""
        from mpi4py import MPI

        if size not in self._units:
            self._units[size] = MPI.BYTE.Create_contiguous(size).Commit()
        return self._units[size]

    def _borrow(self, count: int, dtype) -> np.ndarray:
        """Memory (count,), of an earlier call if possible: new pages take their time."""
        kept = self._unused[count, dtype]
        return kept.pop() if kept else np.empty(count, dtype)

    def _wait(self, requests: list) -> None:
        """Until all requests are done: ask at once for PATIENCE seconds, then with pauses."""
        from mpi4py import MPI

        began = time.perf_counter()
        try:
            while not MPI.Request.Testall(requests):
                waited = time.perf_counter() - began
                if waited < PATIENCE:
                    os.sched_yield()
                else:
                    time.sleep(min(LONG_PAUSE, max(SHORT_PAUSE, waited / 100)))
        except MPI.Exception as error:  # libraries that notice it, for example by a closed connection
            raise RankLost(None, self.step, self.doing, f"MPI: {error}") from error


def _flat(array: np.ndarray) -> np.ndarray:
    """All elements of an array in C order, a view. Raises ValueError for memory with gaps."""
    if not (isinstance(array, np.ndarray) and array.flags.c_contiguous):
        raise ValueError("MPI sends arrays of the host's memory in C order")
    return array.reshape(-1)


def _lengths(bounds: Sequence[int]) -> list[int]:
    """How many elements each rank owns."""
    return [stop - start for start, stop in zip(bounds, bounds[1:])]


def _windows(flat: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Parts of an array of at most `size` bytes, views."""
    step = max(1, size // flat.itemsize)
    for start in range(0, len(flat), step):
        yield flat[start : start + step]
