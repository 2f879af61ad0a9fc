"""The communicator of this process and of those that were started with it.

The environment (launched.py) decides whether MPI is needed at all. A process that is alone never
loads it: a process that has called MPI must not be forked.
"""

from __future__ import annotations

import atexit
import os

import numpy as np

from minillm.backend import threads
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.launched import Launch, launched
from minillm.distributed.mpi import Mpi
from minillm.distributed.nccl import with_gpu
from minillm.errors import UserError


def world(device: str = "cpu") -> Communicator:
    """The communicator of all ranks: `Alone`, or where a launcher started several `Mpi`, and for
    the device "cuda" `Nccl`, for which each rank gets a GPU.

    Raises UserError on rank 0, and SystemExit with the same code on the others, where mpi4py is
    missing, finds no MPI library, or belongs to another MPI than the launcher, and where there is
    no GPU for each rank.
    """
    launch = launched()
    if launch.size == 1:
        return Alone()
    try:
        ranks = _start(launch)
        return ranks if device == "cpu" else with_gpu(ranks, device)
    except UserError:
        if launch.rank == 0:
            raise
        raise SystemExit(2) from None


def cores_of(communicator: Communicator) -> int:
    """How many cores this rank has for its threads: its own where the launcher gave each rank some,
    and an equal share where several ranks may use the same. All ranks call it.
    """
    if not isinstance(communicator, Mpi):
        return threads.cores()
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(threads.cores()))
    node = communicator.of_this_node()
    highest = np.array([mine[-1]])
    node.maximum(highest)
    users = np.zeros(int(highest[0]) + 1)  # of each core: how many ranks may use it
    users[mine] = 1
    node.sum(users)
    node.close()
    return max(1, int(np.sum(1 / users[mine]) + 1e-6))


def mpi_library() -> str:
    """The name and version of the MPI library that mpi4py has loaded."""
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def _start(launch: Launch) -> Mpi:
    """Initialize MPI. At the end of the program it is finalized if all went well.

    If it did not, it is not: that would wait for the other ranks, while the launcher ends them as
    soon as this one is gone.
    """
    MPI = _import_mpi(launch)
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)  # a thread that watches may end all ranks
        atexit.register(_finalize)
    size = MPI.COMM_WORLD.Get_size()
    if size != launch.size:
        raise UserError(
            f"{launch.launcher} started {launch.size} processes, but the MPI library of mpi4py, {mpi_library()}, sees "
            f"{size}: they belong to different MPIs. {_advice(launch)}"
        )
    return Mpi(MPI.COMM_WORLD)


def _import_mpi(launch: Launch):
    """The module MPI of mpi4py, which by itself would start and end MPI."""
    missing = f"{launch.launcher} started {launch.size} processes, which need mpi4py"
    try:
        import mpi4py
    except ImportError:
        raise UserError(
            f'{missing}: pip install "minillm[mpi]", or pip install mpi4py where an MPI is installed already'
        ) from None
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{missing}, but that finds no MPI library ({str(error).splitlines()[0]}): load the MPI module of the "
            "cluster, or pip install mpich"
        ) from None
    return MPI


def _advice(launch: Launch) -> str:
    if launch.launcher == "srun":
        return "Try srun --mpi=pmix or srun --mpi=pmi2 (srun --mpi=list shows which there are)"
    return "Use the mpiexec of that library, or set MPI4PY_LIBMPI to the library of this mpiexec"


def _finalize() -> None:
    """End MPI if the communicator of all ranks was closed on all of them."""
    from mpi4py import MPI

    if Mpi.world_is_closed and not MPI.Is_finalized():
        MPI.Finalize()
