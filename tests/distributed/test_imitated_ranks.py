"""The imitation of ranks itself: it must do what communicator.py says."""

import numpy as np
import pytest
from distributed.rank_threads import RankLost, on_ranks

from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.tree import add_up, nodes_of, parts_of

PARTS = (np.random.default_rng(0).normal(size=(8, 40)) * 10.0 ** np.arange(-3, 5)[:, None]).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("shares_memory", [False, True])
def test_a_sum_over_the_parts_has_the_same_bits_for_every_number_of_ranks(size, shares_memory):
    expected = add_up({(part, part + 1): term.copy() for part, term in enumerate(PARTS)}, (0, 8))
    nodes = [nodes_of(parts_of(rank, size, 8), 8) for rank in range(size)]
    bounds = equal_bounds(40, size)

    def task(communicator):
        known = {(part, part + 1): term.copy() for part, term in enumerate(PARTS)}
        arrays = [add_up(known, node) for node in nodes[communicator.rank]] or [np.zeros(40, np.float32)]
        communicator.reduce_scatter(Terms(8, nodes, arrays), bounds)
        total = communicator.shared(40, np.float32)
        place = slice(*bounds[communicator.rank : communicator.rank + 2])
        total[place] = arrays[0][place]
        communicator.all_gather(total, bounds)
        communicator.barrier()
        return total.copy(), communicator.sent

    found = on_ranks(size, task, shares_memory=shares_memory)
    for total, _ in found:
        assert total.tobytes() == expected.tobytes()
    assert sum(sent["all_gather"] for _, sent in found) == 160 * (size - 1)


def test_the_other_collectives():
    def task(communicator):
        values = np.array([communicator.rank, -communicator.rank], np.int64)
        largest, total, first = values.copy(), values.copy(), values.copy()
        communicator.maximum(largest)
        communicator.sum(total)
        communicator.broadcast(first, 3)
        pair = communicator.split(communicator.rank // 2, -communicator.rank)
        of_pair = values.copy()
        pair.sum(of_pair)
        return [array.tolist() for array in (largest, total, first, of_pair)] + [pair.rank, pair.size]

    found = on_ranks(4, task)
    assert [each[:3] for each in found] == [[[3, 0], [6, -6], [3, -3]]] * 4
    assert [each[3:] for each in found] == [[[1, -1], 1, 2], [[1, -1], 0, 2], [[5, -5], 1, 2], [[5, -5], 0, 2]]


def test_a_rank_that_raises_ends_the_others():
    def task(communicator):
        if communicator.rank == 1:
            raise ValueError("here")
        communicator.barrier()

    with pytest.raises(ValueError, match="here") as caught:
        on_ranks(3, task)
    assert [type(error) for error in caught.value.of_ranks] == [RankLost, ValueError, RankLost]
