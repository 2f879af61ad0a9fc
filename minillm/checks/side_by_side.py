"""Pieces of work in several processes at once, and what they return in the order of the pieces.

A worker is a fork, a copy of this process: what was changed in it, as a test does, counts there,
too. Each takes the next piece that none has taken. The numbers of the pieces wait in a pipe, of
which each read takes one.

What no worker returns is done in this process when its turn comes: where `do` raises, the error
comes from here, after the results before it, as if there were no workers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from select import PIPE_BUF

from minillm.backend.threads import blas_threads, cores

TICKET = 4  # bytes of a piece's number


@contextmanager
def side_by_side(pieces: Sequence, do: Callable, processes: int | None = None) -> Iterator[Iterator]:
    """Within it, an iterator over do(piece) for all pieces, in their order.

    Results pass through pickle. processes: by default one for each core; this one alone where it
    has other threads, which a copy would not have, or cannot be copied.
    """
    processes = min(cores(), len(pieces)) if processes is None else processes
    is_alone = sys.platform == "linux" and threading.active_count() == 1
    is_shared = is_alone and processes > 1 and TICKET * len(pieces) <= PIPE_BUF
    workers = _started(pieces, do, processes) if is_shared else []
    try:
        yield _in_order(pieces, do, workers)
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            worker.results.close()


@dataclass
class _Worker:
    """A process. last: the number of the piece that it returned last; of all pieces, once it has
    ended.
    """

    pid: int
    results: Connection
    last: int = -1


def _in_order(pieces: Sequence, do: Callable, workers: list[_Worker]) -> Iterator:
    found = {}
    for index, piece in enumerate(pieces):
        # A worker takes pieces in order: one that returned a later one will not return this.
        while index not in found and any(worker.last < index for worker in workers):
            running = {worker.results: worker for worker in workers if worker.last < len(pieces)}
            for results in wait(list(running)):
                worker = running[results]
                try:
                    worker.last, result = results.recv()
                    found[worker.last] = result
                except (EOFError, OSError):  # it has ended, perhaps in the middle of a result
                    worker.last = len(pieces)
        yield found.pop(index) if index in found else do(piece)


def _started(pieces: Sequence, do: Callable, processes: int) -> list[_Worker]:
    tickets, fill = os.pipe()
    os.write(fill, b"".join(index.to_bytes(TICKET, "little") for index in range(len(pieces))))
    os.close(fill)
    sys.stdout.flush()
    workers = []
    for _ in range(processes):
        results, writer = Pipe(duplex=False)
        with warnings.catch_warnings():
            # Python 3.12 counts BLAS's threads, which end and start again around a fork.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            pid = os.fork()
        if not pid:
            _work(pieces, do, tickets, writer)
        writer.close()
        workers.append(_Worker(pid, results))
    os.close(tickets)
    return workers


def _work(pieces: Sequence, do: Callable, tickets: int, results: Connection) -> None:
    """The life of a worker.

    An error ends it without a word: the process that it is a copy of meets the same one.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with blas_threads(1):
            while ticket := os.read(tickets, TICKET):
                index = int.from_bytes(ticket, "little")
                results.send((index, do(pieces[index])))
    finally:
        os._exit(0)
