"""A process that is alone: every collective is what it is with one rank, and nothing is sent."""

import numpy as np
import pytest
from planting import planted

from minillm.distributed import alone
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.rank_threads import run_ranks
from minillm.distributed.tree import nodes_of


def terms(parts: int, count: int = 12) -> Terms:
    """Of one rank with nodes that it has not added: the parts themselves."""
    generator = np.random.default_rng(parts)
    arrays = [np.float32(10.0**part) * generator.standard_normal(count, np.float32) for part in range(parts)]
    return Terms(parts, [[(part, part + 1) for part in range(parts)]], arrays)


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 8])
def test_reduce_scatter_is_that_of_one_rank_in_threads(parts):
    expected = run_ranks(1, lambda communicator: communicator.reduce_scatter(terms(parts), [0, 12]))[0]
    given = terms(parts)
    result = Alone().reduce_scatter(given, [0, 12])
    assert result.tobytes() == expected.tobytes()
    assert np.shares_memory(result, given.arrays[0]) and np.array_equal(result, given.arrays[0])


def test_reduce_scatter_leaves_what_is_not_its_slice():
    given = terms(4)
    before = given.arrays[0].copy()
    result = Alone().reduce_scatter(given, [4, 8])
    assert np.array_equal(result, Alone().reduce_scatter(terms(4), [0, 12])[4:8])
    assert np.array_equal(np.delete(given.arrays[0], range(4, 8)), np.delete(before, range(4, 8)))


def test_the_others_change_nothing_and_send_nothing():
    communicator, array = Alone(), np.arange(6.0)
    communicator.all_gather(array, [0, 6])
    communicator.broadcast(array)
    communicator.sum(array)
    communicator.maximum(array)
    communicator.barrier()
    communicator.close()
    assert array.tolist() == [0, 1, 2, 3, 4, 5]
    assert not communicator.sent and (communicator.rank, communicator.size) == (0, 1)
    assert communicator.split(3, 0) is communicator
    assert not communicator.shared(5, np.float32).any() and communicator.of_each(5, np.float32) is None


def test_a_reduction_that_was_started_is_the_reduction():
    wait = Alone().start_reduce_scatter(terms(3), [0, 12])
    assert np.array_equal(wait(), Alone().reduce_scatter(terms(3), [0, 12]))


def test_nodes_of_all_parts_are_one():
    given = terms(1)
    given.parts, given.nodes = 8, [nodes_of(range(8), 8)]
    assert np.array_equal(Alone().reduce_scatter(given, [0, 12]), terms(1).arrays[0])


@pytest.mark.parametrize("count, ranks", [(0, 3), (1, 4), (10, 3), (12, 4)])
def test_equal_bounds(count, ranks):
    bounds = equal_bounds(count, ranks)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, count, ranks + 1)
    assert max(np.diff(bounds)) - min(np.diff(bounds)) <= 1


FAULTS = {
    "a term is left out": (
        "zip(terms.nodes[0], (",
        "zip(terms.nodes[0][:1] + terms.nodes[0][2:], (",
        "the bits of the sum",
    ),
    "all of the array is added": ("place = slice(*bounds)", "place = slice(None)", "the bits of the sum"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    faulty = planted(alone, *FAULTS[fault][:2]).Alone()
    try:
        result = faulty.reduce_scatter(terms(4), [4, 8])
    except KeyError:
        return
    assert not np.array_equal(result, Alone().reduce_scatter(terms(4), [4, 8]))
