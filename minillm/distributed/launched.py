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
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

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


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else None
