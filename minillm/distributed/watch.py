"""It ends well: if one rank is lost, all end within ten seconds, with one line.

A collective waits until all ranks are there, for ever if one has died; under MPI it waits in C, where
no handler of a signal runs. So each rank has a thread that waits for the word of the guard
(guard.py, a process beside rank 0), and then ends its process, whatever the other threads do:

    what happens to a rank                       how the guard learns of it
    kill -9, out of memory, a crash              the system closes its connection
    an exception, MemoryError                    the rank says so, and waits for the answer
    it does nothing for the deadline             the others wait in a collective, and it is not there
    an exception that all ranks raise            all say so: each goes on with its own error

The user's own process, rank 0 where ranks can be interrupted, is not ended: it raises RankLost. The
last checkpoint is intact because files are replaced as a whole (files/atomic.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress

import numpy as np

from minillm.distributed import guard
from minillm.distributed.communicator import Communicator, RankLost
from minillm.errors import UserError
from minillm.files.atomic import describe_os_error

BEAT = 0.1  # seconds between two messages of a rank; longer where there are more than BEATS_A_SECOND / 10 ranks
BEATS_A_SECOND = 500  # that the guard gets
CONNECTING = 10.0  # seconds for all ranks to connect
ANSWER = 6.0  # seconds for the guard's answer after an exception
ADDRESS_BYTES = 1024
EXIT_CODE = 2
GUARD_LOST = "the process that watches over the ranks has ended; start the run again with --resume"


class Watch:
    """A context manager, entered by all ranks together; inside, each is watched over.

    deadline: seconds, as `Machine.deadline`. advice: ends the line, such as the command to resume.
    On entering, `unwatched` has the ranks that cannot connect to rank 0 (none, as a rule). Raises
    RankLost in rank 0 where another is lost, if it can be interrupted; other ranks, and all ranks
    of a communicator that cannot, end with exit code 2. An exception that all ranks raise goes on.
    """

    def __init__(self, communicator: Communicator, deadline: float = 0.0, advice: str = ""):
        self._communicator, self._deadline, self._advice = communicator, deadline, advice
        self._raises = communicator.rank == 0 and communicator.interruptible
        self._beat = max(BEAT, communicator.size / BEATS_A_SECOND)
        self._link: socket.socket | None = None
        self._guard: subprocess.Popen | None = None
        self._verdict: dict | None = None
        self._answered, self._left, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self.unwatched: list[int] = []

    def __enter__(self) -> Watch:
        if self._communicator.size > 1:
            self._connect()
        if self._link is not None:
            self._thread_of_training = threading.get_ident()
            self._send(pid=os.getpid(), host=socket.gethostname())
            self._thread = threading.Thread(target=self._work, name="minillm-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        with suppress(_Interrupted):  # it may come now
            self._leave()
        if self._link is None:
            return
        if error is None:
            self._send(done=True)
        else:
            self._fail(error)
        self._close()

    def _leave(self) -> None:
        with self._lock:
            self._left.set()
            if self._link is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_of_training), None)

    # ------------------------------------------------------------------------------ the connections

    def _connect(self) -> None:
        """A connection between each rank and the guard, through which nothing but its messages go."""
        communicator = self._communicator
        links: dict[int, socket.socket] = {}
        if communicator.rank == 0:
            own, links[0] = socket.socketpair()
            with socket.create_server(("", 0), backlog=communicator.size) as server:
                token = secrets.token_hex(16)
                _broadcast(communicator, {"hosts": addresses(), "port": server.getsockname()[1], "token": token})
                links |= _accept(server, token, communicator.size)
            self._link = own
        else:
            self._link = _reach(_broadcast(communicator, None), communicator.rank)
        connected = np.zeros(communicator.size, np.int64)
        connected[list(links)] = 1
        communicator.broadcast(connected)
        self.unwatched = [int(rank) for rank in np.flatnonzero(connected == 0)]
        if communicator.rank == 0:
            self._start_guard([links[rank] for rank in sorted(links)], sorted(links))
        elif communicator.rank in self.unwatched:
            self._link = None

    def _start_guard(self, links: list[socket.socket], ranks: list[int]) -> None:
        descriptors = [link.fileno() for link in links]
        given = dict(
            descriptors=descriptors, ranks=ranks, deadline=self._deadline, taker=self._raises, advice=self._advice
        )
        command = [sys.executable, "-I", "-S", guard.__file__, json.dumps(given)]
        self._guard = subprocess.Popen(
            command, pass_fds=descriptors, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        for link in links:
            link.close()

    # ---------------------------------------------------------------------------- the watching thread

    def _work(self) -> None:
        """Tell where this rank is, until the guard has something to say."""
        self._link.settimeout(self._beat)
        received = b""
        while b"\n" not in received:
            if not self._left.is_set():
                self._send(**self._place())
            try:
                data = self._link.recv(4096)
            except TimeoutError:
                continue
            except OSError:  # closed here, or reset
                data = b""
            if not data:
                if self._left.is_set():
                    return
                break
            received += data
        self._verdict = json.loads(received.split(b"\n")[0]) if b"\n" in received else None
        self._answered.set()
        if self._verdict != {"together": True}:
            self._end()

    def _place(self) -> dict:
        communicator = self._communicator
        moved = sum(list(communicator.sent.values()))
        if communicator.phase:  # whatever it does there takes processor time; this thread's does not count
            moved += round(time.process_time() - time.thread_time(), 1)
        return dict(step=communicator.step, doing=communicator.doing, phase=communicator.phase, moved=moved)

    def _end(self) -> None:
        """End this process; or the training in it, at the latest where a collective notices."""
        if not self._raises:
            if self._verdict is None and self._communicator.rank == 0:
                os.write(2, f"minillm: {GUARD_LOST}\n".encode())
            os._exit(EXIT_CODE)
        if self._left.wait(1.0):
            return
        with self._lock:
            if not self._left.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread_of_training), ctypes.py_object(_Interrupted)
                )

    # ------------------------------------------------------------------------------------ the end

    def _fail(self, error: BaseException) -> None:
        """An exception ends this rank: tell the guard, and do as it says."""
        if not self._answered.is_set():
            lost = error if isinstance(error, RankLost) else None
            self._send(**self._place())
            self._send(
                failed=lost.why if lost else describe(error),
                line=describe(error) if self._communicator.rank == 0 and not _is_defect(error) else "",
                traceback="".join(traceback.format_exception(error)) if _is_defect(error) else "",
                consequence=lost is not None,
                rank=lost.rank if lost else None,
            )
        self._answered.wait(ANSWER)
        verdict = self._verdict
        if verdict == {"together": True}:
            return
        if not self._raises:
            os._exit(EXIT_CODE)  # as the thread is about to do
        self._send(done=True)
        self._close()
        if verdict is None:
            raise RankLost(None, self._communicator.step, self._communicator.doing, GUARD_LOST) from error
        if verdict["lost"] == 0 and not _is_defect(error):
            return
        raise RankLost(verdict["lost"], verdict["step"], verdict["doing"], verdict["why"]) from error

    def _send(self, **message) -> None:
        with suppress(OSError):  # the guard has ended: the thread notices
            self._link.sendall(json.dumps(message).encode() + b"\n")

    def _close(self) -> None:
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join(1.0)
        self._link.close()
        if self._guard is not None:
            with suppress(subprocess.TimeoutExpired):  # another rank has not ended: it watches on
                self._guard.wait(ANSWER)


class _Interrupted(BaseException):
    """Raised in the thread that trains, wherever it is."""


def describe(error: BaseException) -> str:
    """An exception in one line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".rstrip(": ")
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({os.path.basename(last[0].filename)}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}".rstrip(": ") + where


def _is_defect(error: BaseException) -> bool:
    """Whether the error is one of the program, whose traceback is wanted."""
    return isinstance(error, Exception) and not isinstance(error, (UserError, OSError, MemoryError))


# --------------------------------------------------------------------------------------------- the connections


def addresses() -> list[str]:
    """Where other machines may reach this one, likely ones first."""
    found = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        outward.connect(("192.0.2.1", 9))  # of no machine (RFC 5737); nothing is sent: the system chooses a way
        found.append(outward.getsockname()[0])
    with suppress(OSError):
        found += [entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return list(dict.fromkeys([*found, "127.0.0.1"]))


def _broadcast(communicator: Communicator, contents: dict | None) -> dict:
    """What rank 0 knows, in all ranks."""
    array = np.zeros(ADDRESS_BYTES, np.uint8)
    if contents is not None:
        data = json.dumps({**contents, "name": socket.gethostname()}).encode()
        array[: len(data)] = np.frombuffer(data, np.uint8)
    communicator.broadcast(array)
    return json.loads(array.tobytes().rstrip(b"\0"))


def _accept(server: socket.socket, token: str, size: int) -> dict[int, socket.socket]:
    """Rank -> its connection, of the ranks that come in time and know the token."""
    links: dict[int, socket.socket] = {}
    until = time.monotonic() + CONNECTING
    while len(links) < size - 1 and (left := until - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            link, _ = server.accept()
        except TimeoutError:
            break
        link.settimeout(1.0)
        with suppress(OSError, ValueError):
            words = link.makefile("rb").readline(64).decode().split()
            if len(words) == 2 and secrets.compare_digest(words[0], token):
                links[int(words[1])] = link
    return links


def _reach(address: dict, rank: int) -> socket.socket | None:
    """A connection to rank 0; None where none of its addresses leads to it."""
    hosts = ["127.0.0.1"] if address["name"] == socket.gethostname() else address["hosts"]
    for host in hosts:
        with suppress(OSError):
            link = socket.create_connection((host, address["port"]), timeout=CONNECTING / 2 / len(hosts))
            link.sendall(f"{address['token']} {rank}\n".encode())
            return link
    return None
