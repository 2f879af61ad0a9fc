"""Work done by several processes that are forked from this one, and its results in order.

    tasks      0  1  2  3  4  5             by two workers: 0 2 4 and 1 3 5
    results    0  1  2  3  4  5             each worker has one task at a time

A worker has a copy of this process's memory, so that the function needs no name and only tasks and
results go through pipes. It waits with a result until this process takes it: there are never more
results than workers. With one worker, or where no process can be forked, this process does it all.

Tasks take about as long as each other here, and results are large. Pieces of unequal length, whose
results are small, are in better hands in checks/side_by_side.py: there a worker waits for none.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, Pipe

from minillm.errors import UserError


def why_no_workers() -> str:
    """Why this process can have no forked workers; "" where it can."""
    if sys.platform != "linux":
        return f"processes are forked on Linux only, this is {sys.platform}"
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    return f"other threads are running, which a fork would lose: {', '.join(others[:3])}" if others else ""


def in_order(function: Callable, tasks: Iterable, workers: int, doing: str) -> Iterator:
    """function(task) of each task, in the order of the tasks, by `workers` processes.

    doing: what a worker does, for messages. Raises UserError of a worker here, and one that names
    the cause where a worker has ended. However it ends, all workers have ended then.
    """
    if workers <= 1 or why_no_workers():
        yield from map(function, tasks)
        return
    started: list[_Worker] = []
    try:
        for _ in range(workers):
            started.append(_Worker(function, doing, started))
        tasks, waiting = iter(tasks), deque()
        for worker, task in zip(started, tasks):
            worker.begin(task)
            waiting.append(worker)
        while waiting:
            worker = waiting.popleft()
            result = worker.result()
            for task in tasks:
                worker.begin(task)
                waiting.append(worker)
                break
            yield result
    finally:
        for worker in started:
            worker.end()


class _Worker:
    """A forked process with a pipe."""

    def __init__(self, function: Callable, doing: str, others: list[_Worker]):
        self._doing = doing
        self._pipe, end = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()  # what is still in the buffer would be in the worker's
        with warnings.catch_warnings():
            # Python 3.12 counts the threads of BLAS, which end and start again around a fork
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            for each in (self, *others):
                each._pipe.close()
            _work(function, end)
        end.close()

    def begin(self, task) -> None:
        try:
            self._pipe.send(task)
        except OSError:
            self._has_ended()

    def result(self):
        """What the function returned. Raises UserError."""
        try:
            succeeded, result = self._pipe.recv()
        except (EOFError, OSError):
            self._has_ended()
        if not succeeded:
            raise UserError(result)
        return result

    def _has_ended(self) -> None:
        pid, self.pid = self.pid, 0
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = ", as the system does where memory has run out: use fewer --workers" if code == -signal.SIGKILL else ""
        raise UserError(f"a process that was {self._doing} {how}{memory}")

    def end(self) -> None:
        self._pipe.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _work(function: Callable, pipe: Connection) -> None:
    """The life of a worker: until its pipe is closed, as it is when the first process has ended."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is the first process that decides
        while True:
            try:
                task = pipe.recv()
            except EOFError:
                break
            try:
                answer = True, function(task)
            except UserError as error:
                answer = False, str(error)
            pipe.send(answer)
        code = 0
    finally:
        if error := sys.exc_info()[1]:
            sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
        os._exit(code)
