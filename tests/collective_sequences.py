"""Random sequences of collectives, on all ranks and on groups of them, with pauses at random places in every rank.

    python collective_sequences.py SECONDS RANKS               processes of this machine, until the time is over
    mpiexec -n 4 python collective_sequences.py SECONDS        ranks of MPI

All ranks draw the same sequence from one seed, and know what each of them gives: so each checks every result itself, to the
last bit. What a rank gave is spoilt as soon as its call has returned: no other rank may still read it.
"""

import sys
import time

import numpy as np

from minillm.distributed import workers
from minillm.distributed.communicator import Terms
from minillm.distributed.launch import world
from minillm.distributed.tree import add_up, nodes_of, parts_of

SMALL_STAGING = 2048  # bytes: a few hundred numbers pass through it in several exchanges
SIZES = 0, 1, 3, 50, 700, 2500
LARGEST = max(SIZES)
TERMS = 3  # that one of several ranks has of a sum over 1 to 8 parts, at most


class Pauses:
    """Up to a millisecond, of a rank by itself, one time in four."""

    def __init__(self, *seed):
        self._rng = np.random.default_rng(seed)

    def __call__(self):
        if self._rng.random() < 0.25:
            time.sleep(1e-3 * self._rng.random() ** 3)


class Sequence:
    """One rank's side of it. communicator: of all ranks; every: memory of each rank that all see, or
    None; shared: memory that all see, or None.
    """

    def __init__(self, communicator, seed, every=None, shared=None):
        self.seed, self.pause = seed, Pauses(seed, communicator.rank)
        self._rng = np.random.default_rng(seed)  # the same in all ranks
        self._every, self._shared = every, shared
        rank, size = communicator.rank, communicator.size
        everyone = list(range(size))
        halves, odd = [everyone[: size // 2], everyone[size // 2 :]], [everyone[::2][::-1], everyone[1::2][::-1]]
        self.communicators = [(communicator, everyone)]
        for groups, key in (halves, rank), (odd, -rank):
            groups = [group for group in groups if group]
            colour = next(number for number, group in enumerate(groups) if rank in group)
            self.communicators.append((communicator.split(colour, key), groups[colour]))
        self._kinds = [self.sum, self.maximum, self.broadcast, self.all_gather, self.reduce_scatter, self.two_at_a_time]
        self._kinds += [self.barrier] + ([self.of_shared_memory, self.reduced_where_it_lies] if every else [])

    def turn(self, number):
        """One collective."""
        which, kind = self._rng.integers(len(self.communicators)), self._kinds[self._rng.integers(len(self._kinds))]
        if kind in (self.of_shared_memory, self.reduced_where_it_lies):
            which = 0
        communicator, members = self.communicators[which]
        self.pause()
        rng = np.random.default_rng([self.seed, number, members[0]])  # the same in all ranks of the group
        count = int(rng.choice(SIZES))
        kind(communicator, number, [self._given(number, rank, count) for rank in members], rng)

    # ------------------------------------------------------------------------------------ one kind of collective each

    def sum(self, communicator, number, given, rng):
        array = given[communicator.rank].copy()
        communicator.sum(array)
        same(array, added(given, (0, len(given))))

    def maximum(self, communicator, number, given, rng):
        array = given[communicator.rank].copy()
        communicator.maximum(array)
        same(array, np.maximum.reduce(given))

    def broadcast(self, communicator, number, given, rng):
        root = int(rng.integers(len(given)))
        array = given[communicator.rank].copy()
        communicator.broadcast(array, root)
        same(array, given[root])

    def all_gather(self, communicator, number, given, rng):
        bounds = uneven(rng, len(given[0]), len(given))
        array, expected = given[communicator.rank].copy(), joined(given, bounds)
        communicator.all_gather(array, bounds)
        same(array, expected)
        array[:] = np.nan

    def barrier(self, communicator, number, given, rng):
        communicator.barrier()

    def reduce_scatter(self, communicator, number, given, rng):
        self._reduced(communicator, given, rng, communicator.reduce_scatter)

    def two_at_a_time(self, communicator, number, given, rng):
        """Both started before the first is waited for."""
        bounds, parts = uneven(rng, len(given[0]), len(given)), int(rng.integers(1, 9))
        terms = [terms_of(communicator.rank, number_of_parts(given, parts), len(given)) for _ in range(2)]
        for finish in [communicator.start_reduce_scatter(each, bounds) for each in terms]:
            result = finish()
            same(result, added(number_of_parts(given, parts), (0, parts))[slice(*bounds[communicator.rank :][:2])])

    def of_shared_memory(self, communicator, number, given, rng):
        """Each rank writes its slice, and after a barrier all read all."""
        bounds = uneven(rng, LARGEST, communicator.size)
        own = slice(*bounds[communicator.rank :][:2])
        self._shared[own] = number + communicator.rank
        communicator.all_gather(self._shared, bounds)
        expected = np.repeat(number + np.arange(communicator.size), np.diff(bounds))
        self.pause()
        same(self._shared, expected.astype(np.float32))
        communicator.barrier()

    def reduced_where_it_lies(self, communicator, number, given, rng):
        self._reduced(communicator, given, rng, communicator.reduce_scatter, self._every)

    def _reduced(self, communicator, given, rng, method, every=None):
        count, rank = len(given[0]), communicator.rank
        bounds, parts = uneven(rng, count, len(given)), int(rng.integers(1, 9))
        of_parts = number_of_parts(given, parts)
        terms = terms_of(rank, of_parts, len(given))
        if every:
            for slot, array in zip(every[rank], terms.arrays):
                slot[:count] = array
            everyone = [[slot[:count] for slot in slots] for slots in every]
            terms = Terms(parts, terms.nodes, everyone[rank], everyone)
        result = method(terms, bounds)
        same(result, added(of_parts, (0, parts))[slice(*bounds[rank:][:2])])
        for array in terms.arrays:
            array[:] = np.nan

    def _given(self, number, rank, count):
        """What a rank brings: numbers of very different size, whose sum depends on the order."""
        rng = np.random.default_rng([self.seed, number, rank, count])
        return (rng.normal(size=count) * 10.0 ** rng.integers(-3, 4, count)).astype(np.float32)


def number_of_parts(given, parts):
    """The terms of so many parts of a batch."""
    return [given[part % len(given)] * np.float32(1 + part) for part in range(parts)]


def terms_of(rank, of_parts, ranks):
    """What a rank brings to a sum: arrays that are not used for anything else."""
    parts = len(of_parts)
    nodes = [nodes_of(parts_of(each, ranks, parts), parts) for each in range(ranks)]
    arrays = [added(of_parts, node) for node in nodes[rank]]
    return Terms(parts, nodes, arrays or [np.full_like(of_parts[0], np.nan)])


def added(terms, node):
    """The sum over a node, along the tree, of copies."""
    return add_up({(part, part + 1): term.copy() for part, term in enumerate(terms)}, node)


def uneven(rng, count, ranks):
    """Bounds of slices, of which some are empty."""
    return [0, *sorted(rng.integers(0, count + 1, ranks - 1).tolist()), count]


def joined(given, bounds):
    return np.concatenate([array[a:b] for array, a, b in zip(given, bounds, bounds[1:])])


def same(found, expected):
    np.testing.assert_array_equal(found, expected)


def on_processes(ranks, turns, seed, pause_inside=False):
    """A sequence on processes of this machine. pause_inside: also where a rank has just waited for the others, before it
    reads what they gave.
    """
    with workers.Workers(ranks, 60.0) as communicator:
        every = [communicator.of_each(LARGEST, np.float32) for _ in range(TERMS)]
        every, shared = [list(slots) for slots in zip(*every)], communicator.shared(LARGEST, np.float32)
        communicator.start()
        sequence = Sequence(communicator, seed, every, shared)
        if pause_inside:
            wait = workers.Workers._wait_for_all
            workers.Workers._wait_for_all = lambda self: (wait(self), sequence.pause())
        try:
            for number in range(turns):
                sequence.turn(number)
        finally:
            if pause_inside:
                workers.Workers._wait_for_all = wait


def main(seconds, ranks):
    everyone, began, seed = world(), time.monotonic(), 0
    more = np.ones(1)
    while more[0]:
        if everyone.size == 1:
            on_processes(ranks, 300, seed, pause_inside=True)
        else:
            sequence = Sequence(everyone, seed)
            for number in range(300):
                sequence.turn(number)
            for group, _ in sequence.communicators[1:]:
                group.close()
        seed += 1
        more[0] = time.monotonic() - began < seconds
        everyone.broadcast(more)
    if everyone.rank == 0:
        print(f"{seed} sequences of 300 collectives")
    everyone.close()


if __name__ == "__main__":
    workers.STAGING = SMALL_STAGING
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 4)
