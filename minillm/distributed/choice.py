"""How many processes and threads a training has on this machine, where nothing else is asked for.

Threads of one process share Python's lock, which a step of many small operations waits for again
and again; processes have a lock each. Measured on two cores (benchmarks/train_step.py): with two
processes a step of 0.8 million weights takes 0.93 times as long as with two threads, and 0.76 times
where other programs run. So processes are the default, and threads where a process cannot be
forked, or where this Python has no such lock.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from minillm.backend.threads import cores, thread_count
from minillm.distributed.machine import Machine
from minillm.distributed.processes import why_not_fork


@dataclass(frozen=True)
class Choice:
    """processes of this machine, and threads of each; why: in one line."""

    processes: int
    threads: int
    why: str

    def __str__(self):
        counts = [(self.processes, "process", "processes"), (self.threads, "thread each", "threads each")]
        return ", ".join(f"{n} {one if n == 1 else several}" for n, one, several in counts) + f": {self.why}"


def choose(machine: Machine, parts: int, device: str = "cpu", alone: bool = False) -> Choice:
    """What trains a run whose batches have `parts` parts.

    machine: what is asked for; its numbers are kept. alone: nothing but threads is possible, as for
    a page that changes the run between two steps.
    """
    workers = min(parts, cores())
    if alone:
        processes, why = 1, "what looks into the training has this process alone"
    elif machine.processes:
        processes, why = machine.processes, "as asked for"
    elif workers == 1 or workers <= machine.threads:
        processes, why = 1, "there is work for no more" if cores() > 1 else "there is one core"
    elif reason := why_threads(device):
        processes, why = 1, reason
    else:
        processes, why = workers // max(1, machine.threads), "each has a lock of Python of its own"
    return Choice(processes, machine.threads or max(1, workers // processes), why)


def why_threads(device: str = "cpu") -> str:
    """Why threads of this process are better than processes, or all there is; "" where they are
    not.
    """
    if not has_global_lock():
        return "this Python has no global lock, so that threads are as fast as processes"
    if thread_count() is None:
        return "the threads of this BLAS cannot be set, and each process would have all of them"
    return why_not_fork(device)


def has_global_lock() -> bool:
    """Whether threads of this Python take turns: False for a free-threaded one (PEP 703)."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()
