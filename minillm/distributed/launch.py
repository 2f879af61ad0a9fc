"""Who started this process: a person, or mpiexec or SLURM as one of several ranks.

A launcher tells each process how many there are and which one it is, in environment variables:

    mpiexec of Open MPI                 OMPI_COMM_WORLD_SIZE    OMPI_COMM_WORLD_RANK
    mpiexec of MVAPICH                  MV2_COMM_WORLD_SIZE     MV2_COMM_WORLD_RANK
    mpiexec of MPICH, Intel MPI, Cray;  PMI_SIZE                PMI_RANK
    srun --mpi=pmi2
    srun                                SLURM_STEP_NUM_TASKS    SLURM_PROCID

SLURM_NTASKS alone says nothing: in a script of sbatch it is the size of the job, and the script
runs once. What counts is a step, which srun makes; the numbers of the steps of a script and of an
interactive shell are reserved ones. An mpiexec inside of a job starts its own helpers by srun, so
its variables go first.

The variables decide whether MPI is needed at all. A process that is alone never loads it: a process
that has called MPI must not be forked.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minillm.backend import threads
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.mpi import Mpi
from minillm.distributed.nccl import with_gpu
from minillm.errors import UserError

LAUNCHERS = (  # (the launcher's name, the variable of the number of ranks, that of the rank)
    ("mpiexec", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpiexec", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("mpiexec", "PMI_SIZE", "PMI_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
RESERVED_STEPS = 0xFFFFFFF0  # of SLURM_STEP_ID, from here on: a script, an interactive shell (slurm.h)


@dataclass(frozen=True)
class Launch:
    """What the environment says: this is rank `rank` of the `size` that `launcher` started."""

    launcher: str = ""
    size: int = 1
    rank: int = 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started; size 1 if it is alone.

    >>> launched({"PMI_SIZE": "4", "PMI_RANK": "3"})
    Launch(launcher='mpiexec', size=4, rank=3)
    >>> launched({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}).size  # in a script of sbatch
    1
    """
    for launcher, size_name, rank_name in LAUNCHERS:
        size, rank = _number(environment, size_name), _number(environment, rank_name)
        step = _number(environment, "SLURM_STEP_ID")
        if launcher == "srun" and (step is None or step >= RESERVED_STEPS):
            continue
        if size is not None and rank is not None and 0 <= rank < size:
            return Launch(launcher, size, rank)
    return Launch()


def world(device: str = "cpu") -> Communicator:
    """The communicator of all ranks: `Alone`, or where a launcher started several `Mpi`, and for the
    device "cuda" `Nccl`, for which each rank gets a GPU.

    Raises UserError on rank 0, and SystemExit with the same code on the others, where mpi4py is
    missing, finds no MPI library, or belongs to another MPI than the launcher, and where there is no
    GPU for each rank.
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


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else None
