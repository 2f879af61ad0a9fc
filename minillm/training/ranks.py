"""Which processes and threads train a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minillm.backend.threads import cores
from minillm.distributed.alone import Alone
from minillm.distributed.communicator import Communicator
from minillm.distributed.machine import Machine
from minillm.errors import UserError


@contextmanager
def ranks_of(run, machine: Machine, alone: bool = False) -> Iterator[tuple[Communicator, int]]:
    """(communicator, threads of each process) for a run.

    alone: this process only, as for a page that changes the run between two steps. Raises UserError
    for more workers than the run's batches have parts.
    """
    parts = run.settings.batch_parts
    communicator = Alone()
    threads = machine.threads or min(parts, cores())
    if machine.threads * max(1, machine.processes) > parts:
        raise UserError(
            f"{machine.threads * max(1, machine.processes)} workers for batches of {parts} parts: use fewer of --processes "
            "and --threads; a new run may have more with --batch-parts"
        )
    yield communicator, threads
