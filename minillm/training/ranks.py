"""Which processes and threads train a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from minillm.distributed.alone import Alone
from minillm.distributed.choice import choose
from minillm.distributed.communicator import Communicator
from minillm.distributed.launch import cores_of
from minillm.distributed.machine import Machine
from minillm.distributed.workers import Workers
from minillm.errors import UserError
from minillm.training.grid import check_grid


@contextmanager
def ranks_of(run, machine: Machine, alone: bool = False) -> Iterator[tuple[Communicator, int]]:
    """(communicator, threads of each process) for a run.

    alone: this process only, as for a page that changes the run between two steps. Raises UserError
    for more workers than the run's batches have parts.
    """
    parts, shared_by = run.settings.batch_parts, machine.tensor_parallel
    if shared_by > 1 and run.model.device != "cpu":
        raise UserError(
            f"--tensor-parallel {shared_by}: activations are exchanged in the host's memory; use --device cpu"
        )
    if not isinstance(run.communicator, Alone):
        yield run.communicator, _threads_of_a_rank(run, machine)
        return
    if shared_by > 1:
        processes, threads = 1 if alone else machine.processes or shared_by, 1
        check_grid(processes, shared_by)
    else:
        chosen = choose(machine, parts, run.model.device, alone)
        processes, threads = chosen.processes, chosen.threads
    _check_workers(processes // shared_by * max(1, machine.threads), parts)
    with Workers(processes) if processes > 1 else nullcontext(Alone()) as communicator:
        yield communicator, threads


def _threads_of_a_rank(run, machine: Machine) -> int:
    """For ranks that mpiexec or SLURM started, the same number for each."""
    communicator, parts = run.communicator, run.settings.batch_parts
    if machine.processes > 1:
        raise UserError(
            f"--processes is {machine.processes}, but there are {communicator.size} ranks already: leave it out"
        )
    if machine.tensor_parallel > 1:
        check_grid(communicator.size, machine.tensor_parallel)
        _check_workers(communicator.size // machine.tensor_parallel, parts)
        return 1
    if run.model.device != "cpu":
        if machine.zero > 1:
            raise UserError(f"--zero is {machine.zero}: on GPUs ranks share the optimizer's state alone; leave it out")
        return 1  # a GPU has its own
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
