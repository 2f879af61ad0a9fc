"""What each rank of test_mpi.py runs: `mpiexec -n N python mpi_collectives.py [PIECE]`."""

import sys

import numpy as np

from minillm.distributed import mpi
from minillm.distributed.communicator import Terms, equal_bounds
from minillm.distributed.launch import world
from minillm.distributed.tree import add_up, nodes_of, parts_of


def terms_of(parts, count, dtype=np.float32):
    """A term for each part, with numbers of very different size: the order of a sum matters."""
    generator = np.random.default_rng(parts)
    return [
        (generator.standard_normal(count) * 10.0 ** generator.integers(-3, 4, count)).astype(dtype)
        for _ in range(parts)
    ]


def added(terms, node):
    """The sum over a node, along the tree, of copies."""
    return add_up({(part, part + 1): term.copy() for part, term in enumerate(terms)}, node)


def check_reduce_scatter_and_all_gather(communicator, parts, count, start):
    rank, size = communicator.rank, communicator.size
    terms, bounds = terms_of(parts, count), equal_bounds(count, size)
    nodes = [nodes_of(parts_of(each, size, parts), parts) for each in range(size)]
    arrays = [added(terms, node) for node in nodes[rank]] or [np.full(count, np.nan, np.float32)]
    own, before = slice(*bounds[rank : rank + 2]), communicator.sent.copy()
    if start:
        finish = communicator.start_reduce_scatter(Terms(parts, nodes, arrays), bounds)
        other = communicator.start_reduce_scatter(Terms(parts, nodes, [array.copy() for array in arrays]), bounds)
        result = finish()
        assert np.array_equal(other(), result)
    else:
        result = communicator.reduce_scatter(Terms(parts, nodes, arrays), bounds)
    expected = added(terms, (0, parts))
    assert result.base is arrays[0] and np.array_equal(result, expected[own]), (parts, count)
    communicator.all_gather(arrays[0], bounds)
    assert np.array_equal(arrays[0], expected)

    sent = communicator.sent - before
    length = own.stop - own.start
    assert sent["reduce_scatter"] == (1 + start) * len(nodes[rank]) * 4 * (count - length)
    assert sent["all_gather"] == 4 * length * (size - 1)
    if start == 0 and parts == size and count % size == 0:
        assert sent["reduce_scatter"] == sent["all_gather"] == 4 * count * (size - 1) // size  # P (N - 1) / N


def check_sum(communicator, count, dtype):
    rank, size = communicator.rank, communicator.size
    terms, before = terms_of(size, count, dtype), communicator.sent["sum"]
    array = terms[rank].copy()
    communicator.sum(array)
    assert np.array_equal(array, added(terms, (0, size)))
    sent, itemsize = communicator.sent["sum"] - before, array.itemsize
    if array.nbytes <= mpi.SMALL:
        assert sent == array.nbytes * (size - 1)
    elif array.nbytes <= mpi.PIECE and count % size == 0:
        assert sent == 2 * count * itemsize * (size - 1) // size  # 2 P (N - 1) / N


def check_the_rest(communicator):
    rank, size = communicator.rank, communicator.size
    array = np.array([rank, -rank, np.nan if rank == size - 1 else 0.0])
    communicator.maximum(array)
    assert array[:2].tolist() == [size - 1, 0] and np.isnan(array[2])

    for root in (0, size - 1):
        array, before = np.full((3, 5), rank, np.int64), communicator.sent["broadcast"]
        communicator.broadcast(array, root)
        assert (array == root).all()
        assert communicator.sent["broadcast"] - before == (array.nbytes * (size - 1) if rank == root else 0)

    group = communicator.split(rank % 2, -rank)
    members = [other for other in range(size) if other % 2 == rank % 2][::-1]
    assert members[group.rank] == rank and group.size == len(members)
    array = np.array([float(rank)])
    group.sum(array)
    assert array[0] == sum(members)
    group.close()

    assert communicator.of_this_node().size == size
    assert communicator.doing == ""
    for wrong in (np.zeros((4, 4)).T, [1.0, 2.0]):
        try:
            communicator.sum(wrong)
        except ValueError as error:
            assert "C order" in str(error)
        else:
            raise AssertionError("memory with gaps was sent")
    communicator.doing = ""


def main():
    communicator = world()
    if communicator.size == 1:  # `world` knows that MPI is not needed
        from mpi4py import MPI

        communicator = mpi.Mpi(MPI.COMM_WORLD)
    if len(sys.argv) > 1:
        mpi.PIECE, mpi.SMALL = int(sys.argv[1]), 16
    for parts in (1, 2, 3, 8):
        for count in (0, 1, 37, 6 * 1024):
            for start in (0, 1):
                check_reduce_scatter_and_all_gather(communicator, parts, count, start)
    for count in (1, 37, 60_000):
        check_sum(communicator, count, np.float32)
        check_sum(communicator, count, np.float64)
    check_the_rest(communicator)
    communicator.barrier()
    print("rank", communicator.rank, "is done", flush=True)
    communicator.close()


if __name__ == "__main__":
    main()
