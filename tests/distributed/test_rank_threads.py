"""Ranks as threads: every collective against its formula, the bytes it counts, and how it ends."""

import numpy as np
import pytest

from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.rank_threads import OthersEnded, run_ranks
from minillm.distributed.tree import add_up, nodes_of, parts_of

SIZES = (1, 2, 3, 4)


def terms_of(parts, count, seed=0):
    """A term for each part, with numbers of very different size, so that the order of a sum matters."""
    generator = np.random.default_rng(seed)
    return [
        (generator.standard_normal(count) * 10.0 ** generator.integers(-3, 4, count)).astype(np.float32)
        for _ in range(parts)
    ]


def own_terms(terms, nodes):
    """The sum over each of the nodes of a rank."""
    return [add_up({(i, i + 1): term.copy() for i, term in enumerate(terms)}, node) for node in nodes]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parts", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("shares_memory", [False, True])
def test_reduce_scatter_has_the_bits_of_one_rank(size, parts, shares_memory):
    terms = terms_of(parts, 37)
    expected = own_terms(terms, [(0, parts)])[0]
    nodes = [nodes_of(parts_of(rank, size, parts), parts) for rank in range(size)]
    bounds = equal_bounds(37, size)

    def program(communicator):
        arrays = own_terms(terms, nodes[communicator.rank]) or [np.empty(37, np.float32)]
        own = slice(*bounds[communicator.rank : communicator.rank + 2])
        result = communicator.reduce_scatter(Terms(parts, nodes, arrays), bounds)
        assert np.array_equal(arrays[0][own], result) and np.may_share_memory(arrays[0], result) | (result.size == 0)
        return result

    results = run_ranks(size, program, shares_memory)
    assert np.concatenate(results).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_bytes_are_those_of_the_formulas(size):
    count = 12 * 16  # divisible by every size
    nodes = [[(rank, rank + 1)] for rank in range(size)]

    def program(communicator):
        array, bounds = np.ones(count, np.float32), equal_bounds(count, size)
        communicator.reduce_scatter(Terms(size, nodes, [array.copy()]), bounds)
        communicator.all_gather(array, bounds)
        communicator.sum(array)
        communicator.broadcast(array, root=size - 1)
        communicator.barrier()
        return dict(communicator.sent)

    share = count * 4 * (size - 1) // size
    for rank, sent in enumerate(run_ranks(size, program)):
        assert sent.get("reduce_scatter", 0) == sent.get("all_gather", 0) == share
        assert sent.get("sum", 0) == 2 * share
        assert sent.get("broadcast", 0) == (count * 4 * (size - 1) if rank == size - 1 else 0)
        assert sent.get("barrier", 0) == 0


@pytest.mark.parametrize("size", SIZES)
def test_all_gather(size):
    bounds = equal_bounds(11, size)

    def program(communicator):
        array = np.full(11, communicator.rank)
        communicator.all_gather(array, bounds)
        return array.tolist()

    expected = [next(rank for rank in range(size) if i < bounds[rank + 1]) for i in range(11)]
    assert run_ranks(size, program) == [expected] * size


def test_shared_memory_is_gathered_without_a_byte():
    def program(communicator):
        array, bounds = communicator.shared(8, np.float32), equal_bounds(8, 4)
        array[slice(*bounds[communicator.rank : communicator.rank + 2])] = communicator.rank
        communicator.all_gather(array, bounds)
        of_each = communicator.of_each(2, np.int64)
        of_each[communicator.rank][:] = communicator.rank + 1
        communicator.barrier()
        return array.tolist(), np.sum(of_each, axis=0).tolist(), communicator.sent["all_gather"]

    assert run_ranks(4, program, shares_memory=True) == [([0, 0, 1, 1, 2, 2, 3, 3], [10, 10], 0)] * 4


@pytest.mark.parametrize("size", SIZES)
def test_sum_goes_along_the_tree_over_the_ranks(size):
    terms = terms_of(size, 10, seed=size)

    def program(communicator):
        array = terms[communicator.rank].reshape(2, 5).copy()
        communicator.sum(array)
        return array.tobytes()

    expected = own_terms(terms, [(0, size)])[0]
    assert run_ranks(size, program) == [expected.tobytes()] * size


def test_sum_of_an_array_that_is_not_contiguous():
    def program(communicator):
        array = np.ones((3, 4), np.float32)
        communicator.sum(array[:, 1])
        return array[:, 1].tolist(), array.sum()

    assert run_ranks(2, program) == [([2, 2, 2], 15)] * 2


def test_maximum_and_broadcast():
    def program(communicator):
        largest = np.array([float(communicator.rank), -float(communicator.rank)])
        communicator.maximum(largest)
        told = np.array([communicator.rank])
        communicator.broadcast(told, root=1)
        return largest.tolist(), told.tolist()

    assert run_ranks(3, program) == [([2.0, 0.0], [1])] * 3


def test_split_orders_by_key():
    """Six ranks in two rows of three; keys count backwards."""

    def program(communicator):
        row = communicator.split(communicator.rank // 3, -communicator.rank)
        array = np.zeros(row.size, int)
        array[row.rank] = communicator.rank
        row.sum(array)
        return array.tolist()

    assert run_ranks(6, program) == [[2, 1, 0]] * 3 + [[5, 4, 3]] * 3


def test_an_exception_of_a_rank_ends_all_and_is_raised():
    def program(communicator):
        if communicator.rank == 1:
            raise ZeroDivisionError("of rank 1")
        communicator.barrier()

    with pytest.raises(ZeroDivisionError, match="of rank 1") as caught:
        run_ranks(3, program)
    assert [type(error) for error in caught.value.of_ranks] == [OthersEnded, ZeroDivisionError, OthersEnded]


def test_different_collectives_are_an_error():
    def program(communicator):
        if communicator.rank == 1:
            communicator.sum(np.ones(1))
        else:
            communicator.barrier()

    with pytest.raises(RuntimeError, match="different collectives: rank 0 barrier, rank 1 sum"):
        run_ranks(2, program)


def test_a_rank_that_never_comes_is_given_up():
    """Rank 1 returns without the collective that rank 0 is in."""

    def program(communicator):
        if communicator.rank == 0:
            communicator.barrier()

    with pytest.raises(RuntimeError, match="rank 0 waited in barrier"):
        run_ranks(2, program, deadline=0.05)
