"""Faults planted in the collectives of processes, and of MPI: another sum, or another count of bytes.

Under mpiexec this file is the program of each rank.
"""

import json

import numpy as np
import pytest
from planting import planted

from minillm.distributed import mpi, workers
from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.launch import world
from minillm.distributed.tree import add_up, nodes_of, parts_of
from minillm.errors import UserError

PARTS, COUNT = 5, 40_000  # one of two ranks has two nodes; more than one block, or small message
BY = "the bits of one rank"

FAULTS_OF_WORKERS = {
    "the first block is left out": (
        "in range(own.start, own.stop, BLOCK)",
        "in range(own.start + BLOCK, own.stop, BLOCK)",
        BY,
    ),
    "a rank's terms are those of the first rank": ("terms.everyone[rank][i][block]", "terms.everyone[0][i][block]", BY),
    "a share is not summed": (
        "piece[own] = reduce([staged[own] for staged in self._exchanged(piece)])",
        "self._exchanged(piece)",
        BY,
    ),
    "processes: the sums of the others are not gathered": ("        self._gather(piece, bounds)\n", "", BY),
    "processes: the own slice is counted as sent": (
        "(bounds[-1] - bounds[0] - result.size) *",
        "(bounds[-1] - bounds[0]) *",
        "the bytes sent",
    ),
}
FAULTS_OF_MPI = {
    "terms beyond the first are not sent": ("in range(max(map(len, terms.nodes)))", "in range(1)", BY),
    "the sum stays where a message arrived": ("if not np.may_share_memory(total, place):", "if False:", BY),
    "MPI: the sums of the others are not gathered": ('                self._gather(window, bounds, "sum")\n', "", BY),
    "MPI: the own slice is counted as sent": (
        "lengths[self.rank] * (self.size - 1) *",
        "lengths[self.rank] * self.size *",
        "the bytes sent",
    ),
}


def terms_of(rank: int, ranks: int) -> tuple[Terms, np.ndarray]:
    """(the terms of a rank, their sum over all parts)."""
    generator = np.random.default_rng(0)
    parts = [
        (generator.standard_normal(COUNT) * 10.0 ** generator.integers(-3, 4, COUNT)).astype(np.float32)
        for _ in range(PARTS)
    ]
    nodes = [nodes_of(parts_of(each, ranks, PARTS), PARTS) for each in range(ranks)]

    def added(node):
        return add_up({(part, part + 1): array.copy() for part, array in enumerate(parts)}, node)

    return Terms(PARTS, nodes, [added(node) for node in nodes[rank]]), added((0, PARTS))


def checks(communicator, terms, total):
    """Functions that call one collective each, and then compare its result."""
    rank, size = communicator.rank, communicator.size
    bounds = equal_bounds(COUNT, size)
    own = slice(*bounds[rank : rank + 2])

    def reduce_scatter():
        found = communicator.reduce_scatter(terms, bounds)
        assert np.array_equal(found, total[own]) and np.array_equal(terms.arrays[0][own], total[own])
        assert communicator.sent["reduce_scatter"] == 4 * len(terms.nodes[rank]) * (COUNT - COUNT // size)

    def all_gather():
        array = np.where(np.arange(COUNT) // (COUNT // size) == rank, total, 0)
        communicator.all_gather(array, bounds)
        assert np.array_equal(array, total)
        assert communicator.sent["all_gather"] == total.nbytes * (size - 1) // size

    def sum_():
        array = total * (rank + 1)
        communicator.sum(array)
        assert np.array_equal(array, add_up({(r, r + 1): total * (r + 1) for r in range(size)}, (0, size)))

    return reduce_scatter, all_gather, sum_


def by_processes(module) -> bool:
    """Whether two processes have other results than they should."""
    try:
        with module.Workers(2, 60.0) as communicator:
            slots = [communicator.of_each(COUNT, np.float32) for _ in range(2)]
            wrong = communicator.shared(2, np.int64)
            communicator.start()
            terms, total = terms_of(communicator.rank, 2)
            terms.everyone = [[slot[rank] for slot in slots] for rank in range(2)]
            for mine, array in zip(terms.everyone[communicator.rank], terms.arrays):
                mine[:] = array
            terms.arrays = terms.everyone[communicator.rank][: len(terms.arrays)]
            communicator.barrier()
            for check in checks(communicator, terms, total):
                try:
                    check()
                except (AssertionError, KeyError):
                    wrong[communicator.rank] += 1
        return bool(wrong.any())
    except UserError:  # a rank has ended
        return True


@pytest.mark.parametrize("fault", [None, *FAULTS_OF_WORKERS])
def test_faults_of_processes(fault):
    module = planted(workers, *FAULTS_OF_WORKERS[fault][:2]) if fault else workers
    assert by_processes(module) == bool(fault)


def test_faults_of_mpi(ranks):
    """One start of two ranks for all faults."""
    done = ranks(2, __file__)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout.strip().splitlines()[-1]) == {"": False} | dict.fromkeys(FAULTS_OF_MPI, True)


def main():
    everyone, noticed = world(), {}
    for fault in ("", *FAULTS_OF_MPI):
        module = planted(mpi, *FAULTS_OF_MPI[fault][:2]) if fault else mpi
        communicator, wrong = module.Mpi(everyone._ranks), np.zeros(1)
        for check in checks(communicator, *terms_of(everyone.rank, everyone.size)):
            try:
                check()
            except (AssertionError, KeyError):
                wrong += 1
            everyone.barrier()
        everyone.sum(wrong)
        noticed[fault] = bool(wrong[0])
    if everyone.rank == 0:
        print(json.dumps(noticed), flush=True)
    everyone.close()


if __name__ == "__main__":
    main()
