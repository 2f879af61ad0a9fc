"""What each rank of test_nccl.py runs: `mpiexec -n N python nccl_collectives.py`. The GPU is the
simulator's, whose arrays are in the host's memory.
"""

import imitated_nccl
import numpy as np

from minillm.backend.arrays import SimulatedArray
from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.launch import world
from minillm.distributed.nccl import Nccl
from minillm.distributed.tree import nodes_of, parts_of


def array_of(communicator, contents):
    array = communicator.shared(len(contents), contents.dtype)
    assert type(array) is SimulatedArray
    array[...] = contents
    return array


def close(found, expected):
    return np.allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-5)


def check_shards(communicator, parts, count, bounds):
    rank, size = communicator.rank, communicator.size
    terms = np.random.default_rng(parts).standard_normal((parts, count)).astype(np.float32)
    nodes = [nodes_of(parts_of(each, size, parts), parts) for each in range(size)]
    arrays = [array_of(communicator, terms[first:last].sum(axis=0)) for first, last in nodes[rank]]
    arrays = arrays or [array_of(communicator, np.full(count, 9, np.float32))]
    own, before = slice(*bounds[rank : rank + 2]), communicator.sent.copy()
    result = communicator.reduce_scatter(Terms(parts, nodes, arrays), bounds)
    expected = terms.sum(axis=0)
    assert close(result, expected[own]) and np.shares_memory(result, arrays[0]) | (result.size == 0)
    communicator.all_gather(arrays[0], bounds)
    assert close(arrays[0][bounds[0] : bounds[-1]], expected[bounds[0] : bounds[-1]])
    sent, length = communicator.sent - before, own.stop - own.start
    assert sent["reduce_scatter"] == 4 * (bounds[-1] - bounds[0] - length)
    assert sent["all_gather"] == 4 * length * (size - 1)


def check_the_rest(communicator):
    rank, size = communicator.rank, communicator.size
    for dtype in (np.float32, np.float64, np.int64):
        array = array_of(communicator, np.arange(12, dtype=dtype) + rank)
        before = communicator.sent["sum"]
        communicator.sum(array)
        assert close(array, size * np.arange(12) + sum(range(size)))
        assert communicator.sent["sum"] - before == 2 * 12 * array.itemsize * (size - 1) // size
    array = array_of(communicator, np.array([rank, -rank], np.float32))
    communicator.maximum(array)
    assert np.asarray(array).tolist() == [size - 1, 0]
    array = array_of(communicator, np.full(5, rank, np.float32))
    communicator.broadcast(array, size - 1)
    assert (np.asarray(array) == size - 1).all()

    on_host = np.array([float(rank)])  # by MPI
    communicator.sum(on_host)
    assert on_host[0] == sum(range(size))
    assert not communicator.same_bits and communicator.host.same_bits

    group = communicator.split(rank % 2, rank)
    members = range(rank % 2, size, 2)
    array = array_of(group, np.array([1.0 + rank], np.float32))
    group.sum(array)
    assert close(array, [sum(1.0 + member for member in members)])
    group.close()


def main():
    host = world()
    communicator = Nccl(host, "cudasim", imitated_nccl)
    size = communicator.size
    for parts in (1, size, 3, 8):
        check_shards(communicator, parts, 12 * size, equal_bounds(12 * size, size))
        check_shards(communicator, parts, 37, equal_bounds(37, size))
        check_shards(communicator, parts, 40, [3, *[3 + 10 * rank for rank in range(1, size)], 40])
    check_the_rest(communicator)
    communicator.barrier()
    print("rank", communicator.rank, "is done", flush=True)
    communicator.close()


if __name__ == "__main__":
    main()
