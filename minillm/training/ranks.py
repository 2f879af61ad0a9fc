"""Which processes and threads train a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

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
    if run.communicator.size > 1:
        communicator: Communicator = run.communicator
        threads = machine.threads or max(1, min(cores_of(communicator), parts // communicator.size))
    else:
        processes = 1 if alone else machine.processes or 1
        communicator = Workers(processes, machine.deadline) if processes > 1 else Alone()
        threads = machine.threads or max(1, min(parts // processes, cores() // processes))
    _check_workers(communicator.size * max(1, machine.threads), parts)
    with communicator if isinstance(communicator, Workers) else nullcontext():
        yield communicator, threads


def _check_workers(workers: int, parts: int) -> None:
    if workers > parts:
        raise UserError(
            f"{workers} workers for batches of {parts} parts: use fewer processes and threads; a new run may have more with "
            "--batch-parts"
        )
