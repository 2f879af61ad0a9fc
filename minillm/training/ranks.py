"""Which processes and threads train a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from minillm.backend.threads import cores
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.launch import cores_of
from minillm.distributed.machine import Machine
from minillm.distributed.workers import Workers
from minillm.errors import UserError


@contextmanager
def ranks_of(run, machine: Machine, alone: bool = False) -> Iterator[tuple[Communicator, int]]:
    """(communicator, threads of each process) for a run.

    alone: this process only, as for a page that changes the run between two steps. Raises UserError
    for more workers than the run's batches have parts.
    """
    parts = run.settings.batch_parts
    if not isinstance(run.communicator, Alone):
        yield run.communicator, _threads_of_a_rank(run, machine)
        return
    processes = 1 if alone else machine.processes or 1
    _check_workers(processes * max(1, machine.threads), parts)
    threads = machine.threads or max(1, min(parts // processes, cores() // processes))
    with Workers(processes, machine.deadline) if processes > 1 else nullcontext(Alone()) as communicator:
        yield communicator, threads


def _threads_of_a_rank(run, machine: Machine) -> int:
    """For ranks that mpiexec or SLURM started, the same number for each."""
    communicator, parts = run.communicator, run.settings.batch_parts
    if machine.processes > 1:
        raise UserError(
            f"--processes is {machine.processes}, but there are {communicator.size} ranks already: leave it out"
        )
    least = np.array([-min(cores_of(communicator), -(-parts // communicator.size))])
    communicator.maximum(least)
    threads = machine.threads or max(1, -int(least[0]))
    _check_workers(communicator.size * max(1, machine.threads), parts)
    return threads


def _check_workers(workers: int, parts: int) -> None:
    if workers > parts:
        raise UserError(
            f"{workers} workers for batches of {parts} parts: use fewer processes and threads; a new run may have more with "
            "--batch-parts"
        )
