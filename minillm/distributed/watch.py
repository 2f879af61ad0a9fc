"""It ends well: if one rank is lost, all end within ten seconds, with one line.

A collective waits until all ranks are there: for ever, if one hangs, or has died under MPI. What
started the ranks may kill all as soon as one has ended, before any of them can say why. So each
rank has a thread that tells the guard (guard.py, a process beside rank 0) where this rank is, and
that ends this process when the guard says so, whatever the other threads do:

    what happens to a rank                 how the guard learns of it
    kill -9, out of memory, a crash        the system closes its connection
    an exception, MemoryError              the rank says so
    it does nothing for the deadline       the others wait in a collective, and it is not there

Who prints the line? Where ranks were launched (`Communicator.launched`) the guard does, as rank 0
may be killed at any moment. An exception that all ranks raise, as one program, goes on in each:
rank 0 prints it. Where rank 0 is the user's own process and the others are its children
(workers.py), rank 0 raises RankLost, and the guard prints only if rank 0 itself is lost.

The last checkpoint is intact, however a rank ends, because files are replaced as a whole
(files/atomic.py).
"""

from __future__ import annotations

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
from minillm.distributed.last_words import in_one_line, is_defect
from minillm.errors import UserError

BEAT = 0.1  # seconds between two messages of a rank; longer where there are many ranks:
BEATS_A_SECOND = 500  # that the guard gets at most, of all ranks
CONNECTING = 10.0  # seconds for all ranks to connect
ANSWER = 6.0  # seconds for the guard's answer after an exception
ADDRESS_BYTES = 1024  # of the message that says where the guard is
EXIT_CODE = 2
TOGETHER = {"together": True}


class Watch:
    """A context manager, entered by all ranks together; inside, each is watched over.

    deadline: seconds, as `Machine.deadline`; it is not for the work in `Communicator.during`.
    advice: ends the line, such as the command to resume. Raises RankLost where rank 0 is the user's
    process and another rank is lost; a launched rank, and a child, ends with exit code 2.
    """

    def __init__(self, communicator: Communicator, deadline: float = 0.0, advice: str = ""):
        self._communicator, self._deadline, self._advice = communicator, deadline, advice
        self._beat = max(BEAT, communicator.size / BEATS_A_SECOND)
        self._link: socket.socket | None = None
        self._guard: subprocess.Popen | None = None
        self._verdict: dict | None = None
        self._answered, self._left = threading.Event(), threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="minillm-watch", daemon=True)
        self.unwatched: list[int] = []

    def __enter__(self) -> Watch:
        if self._communicator.size > 1:
            self._connect()
        if self._link is not None:
            self._send(pid=os.getpid(), host=socket.gethostname())
            self._send(**self._place())
            self._link.settimeout(self._beat)  # here: the thread may first run when the link is closed
            self._thread.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._link is None:
            return
        self._left.set()
        if error is None:
            self._send(done=True)
            self._close()
        elif self._communicator.launched:
            self._end_with_all(error)
        else:
            self._end_by_rank_0(error)

    def notes(self) -> list[str]:
        """A remark on ranks that are not watched; none, as a rule."""
        if not self.unwatched:
            return []
        ranks = ", ".join(map(str, self.unwatched))
        return [f"ranks that are not watched, so that the others may wait for them without an end: {ranks}"]

    # ------------------------------------------------------------------------------ the connections

    def _connect(self) -> None:
        """A connection between each rank and the guard."""
        communicator = self._communicator
        links: dict[int, socket.socket] = {}
        if communicator.rank == 0:
            self._link, links[0] = socket.socketpair()
            with socket.create_server(("", 0), backlog=communicator.size) as server:
                token = secrets.token_hex(16)
                _broadcast(communicator, {"hosts": addresses(), "port": server.getsockname()[1], "token": token})
                links |= _accept(server, token, communicator.size)
        else:
            self._link = _reach(_broadcast(communicator, None), communicator.rank)
        connected = np.zeros(communicator.size, np.int64)
        if communicator.rank == 0 and self._start_guard(links):
            connected[list(links)] = 1
        communicator.broadcast(connected)
        self.unwatched = [int(rank) for rank in np.flatnonzero(connected == 0)]
        if communicator.rank in self.unwatched:
            self._link = None

    def _start_guard(self, links: dict[int, socket.socket]) -> bool:
        """Whether it watches now."""
        descriptors = {rank: link.fileno() for rank, link in links.items()}
        given = dict(
            ranks=list(descriptors.items()),
            deadline=self._deadline,
            launched=self._communicator.launched,
            advice=self._advice,
        )
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, json.dumps(given)],
            pass_fds=list(descriptors.values()),
            start_new_session=True,  # else a signal to the group of rank 0 ends it, too
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for link in links.values():
            link.close()
        return bool(self._link.recv(1))

    # ---------------------------------------------------------------------------- the watching thread

    def _work(self) -> None:
        """Tell where this rank is, until the guard has something to say, or has ended."""
        received, data = b"", b" "
        while data:
            if not self._left.is_set():
                self._send(**self._place())
            try:
                data = self._link.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            received += data
            if b"\n" in received and self._verdict is None:
                self._verdict = json.loads(received.split(b"\n")[0])
                self._answered.set()
                if self._verdict != TOGETHER:
                    break
        if not self._left.is_set():
            self._end()
        self._answered.set()

    def _place(self) -> dict:
        communicator = self._communicator
        moved = int(sum(list(communicator.sent.values())))
        if communicator.phase:  # whatever it does there takes processor time; that of this thread does not count
            moved += round(time.process_time() - time.thread_time(), 1)
        return dict(step=communicator.step, doing=communicator.doing, phase=communicator.phase, moved=moved)

    def _end(self) -> None:
        """End this process. Not the user's own: its children end, and it notices that. Without the
        guard, processes of one machine still notice an end, though not that one hangs.
        """
        launched, first = self._communicator.launched, self._communicator.rank == 0
        if launched and first and self._verdict is None:
            os.write(2, f"minillm: {GUARD_LOST}\n".encode())
        if launched or not first and self._verdict is not None:
            os._exit(EXIT_CODE)

    # ------------------------------------------------------------------------------------ the end

    def _end_with_all(self, error: BaseException) -> None:
        """The guard knows whether all ranks have raised an error, or this one alone."""
        self._send_failure(error)
        self._answered.wait(ANSWER)
        if self._verdict != TOGETHER:
            os._exit(EXIT_CODE)
        if self._communicator.rank:
            self._thread.join(ANSWER)  # until rank 0 has printed it: the first that ends is the end of all

    def _end_by_rank_0(self, error: BaseException) -> None:
        """Rank 0 raises its own error where a user can mend it, else RankLost, with the advice."""
        if self._communicator.rank:
            self._send_failure(error)
            return
        self._send(done=True)
        self._close()
        verdict, lost = self._verdict, error
        if verdict is not None and verdict["hanging"]:
            lost = RankLost(verdict["lost"], verdict["step"], verdict["doing"], verdict["why"])
        elif is_defect(error) or isinstance(error, MemoryError):
            lost = RankLost(0, self._communicator.step, self._communicator.doing, in_one_line(error))
        if isinstance(lost, RankLost):
            why = f"{lost.why}; {self._advice}" if self._advice else lost.why
            raise RankLost(lost.rank, lost.step, lost.collective, why) from error

    def _send_failure(self, error: BaseException) -> None:
        lost = error if isinstance(error, RankLost) else None
        self._send(**self._place())
        self._send(
            failed=lost.why if lost else in_one_line(error),
            line=in_one_line(error) if self._communicator.rank == 0 and isinstance(error, (UserError, OSError)) else "",
            traceback="".join(traceback.format_exception(error)) if is_defect(error) else "",
            consequence=lost is not None,
            rank=lost.rank if lost else None,
        )

    def _send(self, **message) -> None:
        with suppress(OSError), self._sending:  # an error: the guard has ended, which the thread notices
            self._link.sendall(json.dumps(message).encode() + b"\n")

    def _close(self) -> None:
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join(1.0)
        self._link.close()
        if self._guard is not None:
            with suppress(subprocess.TimeoutExpired):  # another rank has not ended yet: it watches on
                self._guard.wait(ANSWER)


GUARD_LOST = "the process that watches over the ranks has ended, and so do they: start the run again with --resume"


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
            words = link.makefile("rb", buffering=0).readline(64).decode().split()
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
