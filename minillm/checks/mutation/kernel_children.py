"""Work that may never end, or end the process: each piece in a copy of this process of its own.

A child is a fork: what is compiled and loaded is there, and what it writes is lost with it. A
mutant that writes where it should not spoils nothing but itself.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import selectors
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

WALL_SECONDS = 60.0  # a child that waits without computing


def in_children(pieces: Iterable, work: Callable, jobs: int) -> Iterator[tuple[object, object]]:
    """Yields (piece, work(piece)) as they are done, `jobs` at a time.

    What `work` returns passes through JSON. Where the child did not live to return it, it is the
    number of the signal that ended it: SIGPROF where it used up the processor time that it gave
    itself with `allow`.
    """
    waiting, running = iter(pieces), {}
    selector = selectors.DefaultSelector()
    try:
        while True:
            while len(running) < jobs and (piece := next(waiting, None)) is not None:
                reader, pid = _started(work, piece)
                running[reader] = [piece, pid, b"", time.monotonic()]
                selector.register(reader, selectors.EVENT_READ)
            if not running:
                return
            for key, _ in selector.select(1.0):
                if data := os.read(key.fd, 65536):
                    running[key.fd][2] += data
                    continue
                selector.unregister(key.fd)
                os.close(key.fd)
                piece, pid, data, _ = running.pop(key.fd)
                yield piece, _result(pid, data)
            for _, pid, _, started in running.values():
                if time.monotonic() - started > WALL_SECONDS:
                    os.kill(pid, signal.SIGPROF)
    finally:
        for reader, (_, pid, _, _) in running.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reader)
        selector.close()


def allow(seconds: float) -> None:
    """Give this process so much processor time from now on."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _started(work: Callable, piece) -> tuple[int, int]:
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of BLAS: they do nothing now
        pid = os.fork()
    if pid:
        os.close(writer)
        return reader, pid
    status = 1
    try:
        os.close(reader)
        faulthandler.disable()  # that a child crashes is a result
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPROF, signal.SIGINT, signal.SIGABRT):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # a kernel may print
            os.dup2(null, descriptor)
        data = json.dumps(work(piece)).encode()
        while data:
            data = data[os.write(writer, data) :]
        status = 0
    finally:
        os._exit(status)


def _result(pid: int, data: bytes):
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return int(os.WTERMSIG(status))
    return json.loads(data) if data else int(signal.SIGABRT)
