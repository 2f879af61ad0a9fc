"""Processes of this machine: every collective against NumPy, with the bits of one process, for any number of ranks."""

import numpy as np
import pytest

from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Terms
from minillm.distributed.tree import nodes_of, parts_of, write_sum
from minillm.distributed.workers import BLOCK, STAGING, Workers

RANKS = (1, 2, 3, 4, 5, 8)
DEADLINE = 60.0


def random_arrays(number: int, count: int) -> list[np.ndarray]:
    """Float32 numbers of very different size: their sum depends on the order."""
    rng = np.random.default_rng(count)
    return [(rng.normal(size=count) * 10.0 ** rng.integers(-3, 4, count)).astype(np.float32) for _ in range(number)]


def terms_of(rank: int, ranks: int, parts: int, arrays: list, everyone=None) -> Terms:
    nodes = [nodes_of(parts_of(r, ranks, parts), parts) for r in range(ranks)]
    return Terms(parts, nodes, arrays, everyone)


def node_arrays(given: list, nodes) -> list[np.ndarray]:
    """The terms of nodes: the sums of their parts, along the tree."""
    known = {(i, i + 1): array for i, array in enumerate(given)}
    found = []
    for node in nodes:
        found.append(np.empty_like(given[0]))
        write_sum(known, node, found[-1])
    return found


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_reduce_scatter_has_the_bits_of_one_process(ranks, parts):
    count = 2 * BLOCK + 77
    bounds = [0, *sorted(np.random.default_rng(ranks).integers(0, count, ranks - 1).tolist()), count]
    given = random_arrays(parts, count)
    alone = Terms(parts, [[(i, i + 1) for i in range(parts)]], [array.copy() for array in given])
    expected = Alone().reduce_scatter(alone, [0, count])
    with Workers(ranks, DEADLINE) as communicator:
        slots = [communicator.of_each(count, np.float32) for _ in range(4)]
        found = communicator.shared(count, np.float32)
        communicator.start()
        rank = communicator.rank
        everyone = [[slot[r] for slot in slots] for r in range(ranks)]
        terms = terms_of(rank, ranks, parts, everyone[rank], everyone)
        for array, value in zip(terms.arrays, node_arrays(given, terms.nodes[rank])):
            array[:] = value
        own = communicator.reduce_scatter(terms, bounds)
        assert own.base is not None and np.shares_memory(own, terms.arrays[0][bounds[rank] : bounds[rank + 1]]) == bool(
            own.size
        )
        found[bounds[rank] : bounds[rank + 1]] = own
        sent = (count - own.size) * 4 * len(terms.nodes[rank])
        assert communicator.sent["reduce_scatter"] == sent
        for array, value in zip(terms.arrays, node_arrays(given, terms.nodes[rank])):  # others have not written here
            outside = np.ones(count, bool)
            outside[bounds[rank] : bounds[rank + 1]] = False
            assert (array[outside] == value[outside]).all()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ranks", RANKS)
def test_arrays_of_a_rank_s_own_memory_are_reduced_in_pieces(ranks):
    count = STAGING // 4 + 1001
    bounds = [count * r * r // ranks**2 for r in range(ranks + 1)]  # uneven, the first nearly empty
    given = random_arrays(5, count)
    expected = Alone().reduce_scatter(
        Terms(5, [[(i, i + 1) for i in range(5)]], [array.copy() for array in given]), [0, count]
    )
    with Workers(ranks, DEADLINE) as communicator:
        found = communicator.shared(count, np.float32)
        communicator.start()
        terms = terms_of(communicator.rank, ranks, 5, [])
        terms.arrays = node_arrays(given, terms.nodes[communicator.rank]) or [np.empty(count, np.float32)]
        own = slice(*bounds[communicator.rank : communicator.rank + 2])
        found[own] = communicator.start_reduce_scatter(terms, bounds)()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.uint8])
def test_sums_and_maxima(ranks, dtype):
    count = STAGING // np.dtype(dtype).itemsize + 13  # more than one piece
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 20, count).astype(dtype) for _ in range(ranks)]
    with Workers(ranks, DEADLINE) as communicator:
        communicator.start()
        total, largest = given[communicator.rank].copy(), given[communicator.rank].copy()
        communicator.sum(total)
        communicator.maximum(largest)
        np.testing.assert_array_equal(total, np.add.reduce(given, dtype=dtype))
        np.testing.assert_array_equal(largest, np.maximum.reduce(given))
        number = np.array(communicator.rank + 1.0)  # 0-d
        communicator.sum(number)
        assert number == ranks * (ranks + 1) / 2


@pytest.mark.parametrize("ranks", RANKS)
def test_a_sum_of_floats_goes_along_the_tree(ranks):
    given = random_arrays(ranks, 1000)
    expected = Alone().reduce_scatter(
        Terms(ranks, [[(i, i + 1) for i in range(ranks)]], [array.copy() for array in given]), [0, 1000]
    )
    with Workers(ranks, DEADLINE) as communicator:
        communicator.start()
        array = given[communicator.rank]
        communicator.sum(array.reshape(20, 50))
        np.testing.assert_array_equal(array, expected)
        bounds = [1000 * rank // ranks for rank in range(ranks + 1)]
        own = bounds[communicator.rank + 1] - bounds[communicator.rank]
        assert communicator.sent["sum"] == 4 * (1000 - own) + 4 * own * (ranks - 1)  # 2 P (N - 1) / N, for equal shares


@pytest.mark.parametrize("ranks", RANKS)
def test_all_gather_of_own_and_of_shared_memory(ranks):
    count = 3 * STAGING // 8 + 5
    bounds = [0, *sorted(np.random.default_rng(ranks).integers(0, count, ranks - 1).tolist()), count]
    with Workers(ranks, DEADLINE) as communicator:
        shared = communicator.shared(count, np.float64)
        communicator.start()
        own = slice(*bounds[communicator.rank : communicator.rank + 2])
        array = np.full(count, -1.0)
        array[own] = shared[own] = np.arange(count)[own]
        communicator.all_gather(array, bounds)
        np.testing.assert_array_equal(array, np.arange(count))
        communicator.all_gather(shared, bounds)
        np.testing.assert_array_equal(shared, np.arange(count))
        assert communicator.sent["all_gather"] == 2 * 8 * (own.stop - own.start) * (ranks - 1)


@pytest.mark.parametrize("ranks", RANKS)
def test_broadcast(ranks):
    count, root = STAGING // 8 + 9, ranks - 1
    with Workers(ranks, DEADLINE) as communicator:
        shared = communicator.shared(10, np.float64)
        communicator.start()
        array = np.arange(count) * (communicator.rank + 1.0)
        communicator.broadcast(array, root)
        np.testing.assert_array_equal(array, np.arange(count) * (root + 1.0))
        if communicator.rank == root:
            shared[:] = 7
        communicator.broadcast(shared, root)
        assert (shared == 7).all()
        sent = (array.nbytes + shared.nbytes) * (ranks - 1)
        assert communicator.sent["broadcast"] == (sent if communicator.rank == root else 0)


def test_groups_of_ranks():
    """A grid of 2 x 3 ranks: sums along its rows and columns, one after the other, and of a group of a group."""
    with Workers(6, DEADLINE) as communicator:
        communicator.start()
        row, column = divmod(communicator.rank, 3)
        along_row, along_column = communicator.split(row, -column), communicator.split(column, row)
        assert (along_row.size, along_row.rank) == (3, 2 - column)  # by key: the last column first
        assert (along_column.size, along_column.rank) == (2, row)
        pair = along_row.split(int(along_row.rank == 0), 0)
        assert pair.size == (1 if along_row.rank == 0 else 2)
        for _ in range(20):  # groups in turn, so that a word for one is not taken for another's
            number = np.array([1 << communicator.rank])
            along_row.sum(number)
            assert number == 0b111 << 3 * row
            along_column.sum(number)
            assert number == 0b111111
            pair.sum(number)
            assert number == 0b111111 * pair.size
        gathered = np.zeros(3)
        gathered[along_row.rank] = column
        along_row.all_gather(gathered, [0, 1, 2, 3])
        assert gathered.tolist() == [2, 1, 0]
        terms = terms_of(along_row.rank, 3, 3, [np.full(9, communicator.rank, np.float32)], along_row.of_each(9, "f4"))
        assert along_row.reduce_scatter(terms, [0, 3, 6, 9]).tolist() == [3 * (3 * row + 1)] * 3


def test_many_collectives_in_a_row_do_not_mix():
    """Without waiting in between: the slowest rank still reads what it was given."""
    with Workers(4, DEADLINE) as communicator:
        communicator.start()
        rng = np.random.default_rng(communicator.rank)
        for turn in range(300):
            array = np.full(int(rng.integers(5, 6)), float(turn + communicator.rank))
            communicator.sum(array)
            assert (array == 4 * turn + 6).all()
            if rng.random() < 0.1:
                np.linalg.svd(rng.normal(size=(40, 40)))


def test_shared_memory_is_made_before_the_start():
    with Workers(2, DEADLINE) as communicator:
        communicator.start()
        with pytest.raises(RuntimeError, match="before they are started"):
            communicator.shared(1, np.float32)


def test_arrays_in_another_order_are_refused():
    with Workers(2, DEADLINE) as communicator:
        communicator.start()
        with pytest.raises(ValueError, match="C order"):
            communicator.sum(np.zeros((3, 4)).T)
