"""One GPU a rank: arrays travel between GPUs by NCCL, everything else by MPI.

NCCL (NVIDIA Collective Communications Library) moves arrays from GPU to GPU without the host, over
NVLink or a network. CuPy calls it (cupy.cuda.nccl). Ranks find each other by an id of 128 bytes
that rank 0 makes and MPI sends to all.

**Its sums are not those of the tree.** NCCL adds while it carries, in an order that depends on the
number of ranks, the machine and the version:

    (a + b) + (c + d)     of the tree, for any number of ranks
    ((a + b) + c) + d     of a ring of four, and each slice begins at another rank

In float32 a sum of n terms is off by up to n 2^-24 of the sum of their magnitudes in either order.
So runs on different numbers of GPUs agree to 1e-6, not bit for bit; `same_bits` is False, and the
training says so.

The calls are put into the stream that CuPy uses, and return at once: what is queued behind them
sees their results.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from minillm.backend.arrays import device_of, to_device
from minillm.distributed.communicator import Communicator, Terms
from minillm.errors import UserError

ID_BYTES = 128  # ncclUniqueId


class Nccl(Communicator):
    """Ranks with one GPU each.

    host: the same ranks over MPI, for the id and for arrays of the host's memory. device: where
    `shared` makes memory. library: in the place of cupy.cuda.nccl. This rank's GPU is the current
    one of CuPy. Raises UserError without NCCL.
    """

    where = "NCCL"
    launched = True
    same_bits = False

    def __init__(self, host: Communicator, device: str = "cuda", library=None):
        super().__init__()
        self.host, self.rank, self.size, self.sent = host, host.rank, host.size, host.sent
        self._device, self._nccl = device, library or _nccl_of_cupy()
        self._ranks = self._nccl.NcclCommunicator(self.size, self._id(), self.rank)

    def shared(self, count: int, dtype):
        """Zeros in the memory of this rank's GPU."""
        return to_device(np.zeros(count, dtype), self._device)

    # ------------------------------------------------------------------------------- collectives

    def reduce_scatter(self, terms: Terms, bounds: Sequence[int]):
        """This rank's terms are added here, so that each rank has one. P (N - 1) / N bytes."""
        total, *others = terms.arrays
        own = total[bounds[self.rank] : bounds[self.rank + 1]]
        if not terms.nodes[self.rank]:
            total[bounds[0] : bounds[-1]] = 0
            others = []
        for other in others:
            total[bounds[0] : bounds[-1]] += other[bounds[0] : bounds[-1]]
        with self._inside("reduce_scatter", (bounds[-1] - bounds[0] - len(own)) * own.itemsize):
            lengths = np.diff(bounds)
            if len(set(lengths.tolist())) == 1:
                whole = total[bounds[0] : bounds[-1]]
                self._call("reduceScatter", whole, own, len(own), self._nccl.NCCL_SUM)
            else:
                self._for_each("reduce", total, bounds, self._nccl.NCCL_SUM)
        return own

    def all_gather(self, array, bounds: Sequence[int]) -> None:
        """P (N - 1) / N bytes, where slices are equal."""
        if not _on_gpu(array):
            with self.inside("all_gather"):
                self.host.all_gather(array, bounds)
            return
        own = array[bounds[self.rank] : bounds[self.rank + 1]]
        with self._inside("all_gather", own.nbytes * (self.size - 1)):
            if len(set(np.diff(bounds).tolist())) == 1:
                self._call("allGather", own, array[bounds[0] : bounds[-1]], len(own))
            else:
                self._for_each("broadcast", array, bounds)

    def broadcast(self, array, root: int = 0) -> None:
        """(N - 1) P bytes, counted where they come from."""
        if not _on_gpu(array):
            with self.inside("broadcast"):
                self.host.broadcast(array, root)
            return
        with self._inside("broadcast", array.nbytes * (self.size - 1) * (self.rank == root)):
            self._call("broadcast", array, array, array.size, root)

    def sum(self, array) -> None:
        """2 P (N - 1) / N bytes; in an order of NCCL's own."""
        if not _on_gpu(array):
            with self.inside("sum"):
                self.host.sum(array)
            return
        with self._inside("sum", 2 * array.nbytes * (self.size - 1) // self.size):
            self._call("allReduce", array, array, array.size, self._nccl.NCCL_SUM)

    def maximum(self, array) -> None:
        """2 P (N - 1) / N bytes."""
        if not _on_gpu(array):
            with self.inside("maximum"):
                self.host.maximum(array)
            return
        with self._inside("maximum", 2 * array.nbytes * (self.size - 1) // self.size):
            self._call("allReduce", array, array, array.size, self._nccl.NCCL_MAX)

    def barrier(self) -> None:
        """Wait until the host of every rank is here. Its GPU may be behind."""
        with self.inside("barrier"):
            self.host.barrier()

    def split(self, colour: int, key: int) -> Nccl:
        """The ranks of the same colour, with an id of their own."""
        return Nccl(self.host.split(colour, key), self._device, self._nccl)

    def close(self) -> None:
        """End it: other ranks are waited for."""
        self._ranks.destroy()
        self.host.close()

    def abort(self, code: int) -> None:
        """End all ranks now, also those that wait for a GPU."""
        self._ranks.abort()
        self.host.abort(code)

    # ----------------------------------------------------------------------------------- helpers

    def _id(self):
        """What rank 0 made, on all ranks. CuPy has it as a tuple of characters, or as bytes."""
        message = np.zeros(1 + ID_BYTES, np.int8)
        if self.rank == 0:
            made = self._nccl.get_unique_id()
            message[0] = isinstance(made, bytes)
            message[1:] = np.frombuffer(made, np.int8) if isinstance(made, bytes) else made
        self.host.broadcast(message)
        return message[1:].tobytes() if message[0] else tuple(message[1:].tolist())

    def _for_each(self, name: str, array, bounds: Sequence[int], *operation) -> None:
        """One call for the slice of each rank, from or to it, in one group: of any length."""
        self._nccl.groupStart()
        for rank, (start, stop) in enumerate(zip(bounds, bounds[1:])):
            if stop > start:
                self._call(name, array[start:stop], array[start:stop], stop - start, *operation, rank)
        self._nccl.groupEnd()

    def _call(self, name: str, given, into, count: int, *more) -> None:
        if count:
            kind = getattr(self._nccl, f"NCCL_{given.dtype.name.upper()}")
            getattr(self._ranks, name)(_pointer(given), _pointer(into), count, kind, *more, _stream(given))

    def _inside(self, name: str, sent: int):
        self.sent[name] += int(sent)
        return self.inside(name)


def with_gpu(host: Communicator, device: str) -> Nccl:
    """The ranks of `host`, from here on with a GPU each. All ranks call it.

    Raises UserError, in all of them, where they have none.
    """
    if device == "cuda":
        from cupy.cuda import Device

        Device(gpu_of(host)).use()
    return Nccl(host, device)


def gpu_of(communicator: Communicator) -> int:
    """Which of the GPUs that it sees is this rank's. All ranks call it.

    Raises UserError where a machine has more ranks than GPUs: NCCL wants one for each.
    """
    from cupy.cuda import Device, runtime

    node = communicator.of_this_node()
    seen = runtime.getDeviceCount()
    number = node.rank % seen  # a launcher may show each rank only its own
    buses = np.zeros((node.size, 16), np.uint8)
    bus = Device(number).pci_bus_id.encode()[:16]
    buses[node.rank, : len(bus)] = np.frombuffer(bus, np.uint8)
    node.all_gather(buses.reshape(-1), range(0, buses.size + 1, 16))
    node.close()
    if len({row.tobytes() for row in buses}) < len(buses):
        raise UserError(
            f"{len(buses)} ranks on a machine where they see {seen} GPU{'s' if seen > 1 else ''}: NCCL needs one for each; "
            "start fewer ranks on each machine"
        )
    return number


def _nccl_of_cupy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # CuPy's advice, in several lines
        from cupy.cuda import nccl
    if not nccl.available:
        raise UserError(
            "training on several GPUs needs NCCL, which CuPy does not find: pip install nvidia-nccl-cu13, or "
            "nvidia-nccl-cu12 for CuPy of CUDA 12"
        )
    return nccl


def _on_gpu(array) -> bool:
    return device_of(array) != "cpu"


def _pointer(array) -> int:
    return array.data.ptr if device_of(array) == "cuda" else array.ctypes.data  # of the simulator: the host's memory


def _stream(array) -> int:
    if device_of(array) != "cuda":
        return 0
    from cupy.cuda import get_current_stream

    return get_current_stream().ptr
