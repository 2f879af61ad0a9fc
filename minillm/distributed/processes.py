"""Processes of this machine: forked from one, a word from one to another, and how each of them
ends.

Rank 0 is the process that forks; the others are its children, which go on from the same line of the
program with a copy of its memory. Memory that was made with `shared_memory` before is the same in
all of them. Nothing has a name in a file system, so nothing is left behind, however they end.

A word is four bytes in a pipe, the inbox of its receiver. A second pipe of each rank is its life
line: only this rank can write into it, so that all others read its end when the process is gone. A
child that fails writes there why, before it ends.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import struct
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import suppress
from itertools import chain

import numpy as np

from minillm.distributed.communicator import RankLost
from minillm.distributed.last_words import ENDED, InChild, how_it_ended, last_words
from minillm.errors import UserError

CHANNELS = 16  # groups of ranks in which one process can be
PATIENCE = 5.0  # seconds that a failed child leaves rank 0 to notice it by itself, which gives the better message
WORD = struct.Struct("<HH")  # channel, sender
ROW = np.dtype([("entered", np.int64, (CHANNELS,)), ("step", np.int64), ("doing", "S24"), ("ended", np.bool_)])
NO_STEP = -1
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def why_not_fork(device: str = "cpu") -> str:
    """Why this process cannot be forked for a training on a device; "" where it can be."""
    if sys.platform != "linux" or not hasattr(os, "fork"):
        return f"processes are forked on Linux only, this is {sys.platform}"
    if device != "cpu":
        return f"the device is {device}: its state does not survive a fork"
    if threading.current_thread() is not threading.main_thread():
        return "this is not the main thread, which alone gets signals"
    if others := sorted(thread.name for thread in other_threads()):
        return f"other threads are running, which a fork would lose: {', '.join(others[:3])}"
    return ""


def other_threads() -> list[threading.Thread]:
    """The threads of this process beside the main one."""
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


def can_fork(device: str = "cpu") -> bool:
    """Whether a training on a device can have several processes here."""
    return not why_not_fork(device)


def shared_memory(count: int, dtype) -> np.ndarray:
    """An array (count,) of zeros that processes forked later have in common."""
    dtype = np.dtype(dtype)
    memory = mmap.mmap(-1, max(1, count * dtype.itemsize))  # anonymous, MAP_SHARED
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)  # a step of 10.6 million weights takes 1.25 s, with small pages 1.47 s
    return np.frombuffer(memory, dtype, count)


class Processes:
    """This process and the children that `start` forks.

    rank, size: as in a communicator. table: a row for each rank, in shared memory: what it is
    doing, for messages. channels_used: how many groups this process has been in.
    """

    def __init__(self, size: int):
        self.rank, self.size = 0, size
        self.table = shared_memory(size, ROW)
        self.table["step"] = NO_STEP
        self.started, self.channels_used = False, 1
        self._pids: dict[int, int] = {}  # of rank 0: its children
        self._reports: dict[int, dict] = {}  # of rank 0: why children failed (last_words.py)
        self._watching, self._sigchld = False, None
        self._words: Counter[tuple[int, int]] = Counter()
        self._failing: set[int] = set()  # ranks that have said why, and will end
        self._done: set[int] = set()  # ranks that have ended well: no word comes from them any more

    # ------------------------------------------------------------------------------------------ start

    def start(self) -> None:
        """Fork: returns in every process. Raises UserError where it cannot be done."""
        if reason := why_not_fork():
            raise UserError(f"{self.size} processes cannot be started: {reason}; use threads")
        inboxes, lines = ([os.pipe() for _ in range(self.size)] for _ in range(2))
        parent, prctl = os.getpid(), ctypes.CDLL(None).prctl
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()  # what is still in the buffer would be in that of every child
        for rank in range(1, self.size):
            try:
                pid = _fork()
            except OSError as error:
                self._end_children()
                _close(*chain(*inboxes, *lines))
                raise UserError(f"process {rank} of {self.size} cannot be started: {error.strerror}") from None
            if not pid:
                try:
                    self._become_child(rank, parent, prctl)
                    self._keep_own_ends(inboxes, lines)
                    self.started = True
                    return
                finally:
                    if not self.started:  # no second copy of the program may go on from here
                        os._exit(1)
            self._pids[rank] = pid
        self._keep_own_ends(inboxes, lines)
        self.started = True
        self._sigchld = signal.signal(signal.SIGCHLD, self._child_ended) or signal.SIG_DFL
        self._watching = True

    def _become_child(self, rank: int, parent: int, prctl) -> None:
        """Signals of a terminal or a scheduler reach all processes: rank 0 decides for all. A child
        prints nothing, and is killed by the system when rank 0 ends in whatever way.
        """
        prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # ended before the line above
            os._exit(1)
        self.rank, self._pids = rank, {}
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        sys.stdout = sys.stderr = nowhere = open(os.devnull, "w")
        for output in (1, 2):  # of libraries, and of what has kept the old sys.stderr
            os.dup2(nowhere.fileno(), output)

    def _keep_own_ends(self, inboxes, lines) -> None:
        self._inbox, self._line = inboxes[self.rank][0], lines[self.rank][1]
        self._inboxes = {rank: end for rank, (_, end) in enumerate(inboxes) if rank != self.rank}
        self._lines = {end: rank for rank, (end, _) in enumerate(lines) if rank != self.rank}
        _close(inboxes[self.rank][1], lines[self.rank][0])
        for rank in self._inboxes:
            _close(inboxes[rank][0], lines[rank][1])
        self._poll = select.poll()
        for end in (self._inbox, *self._lines):
            os.set_blocking(end, False)
            self._poll.register(end, select.POLLIN)

    # ------------------------------------------------------------------------------------------ words

    def send(self, rank: int, channel: int) -> None:
        """A word to another rank. Raises RankLost if it has ended."""
        try:
            os.write(self._inboxes[rank], WORD.pack(channel, self.rank))
        except BrokenPipeError:
            raise self._lost(rank) from None

    def wait_for(self, sender: int, channel: int, seconds: float, everyone) -> None:
        """Wait for a word. Raises RankLost if any rank has ended otherwise than well, or if none
        came within a number of seconds (0: any number). everyone: the ranks of the channel, of
        which one keeps the others waiting.
        """
        last = time.monotonic() + seconds if seconds else None
        entered = self.table["entered"][:, channel]
        while not self._words[channel, sender]:
            # One that fails after this barrier does not keep it waiting. Where all fail, rank 0
            # comes to its own error.
            for rank in self._failing.intersection(everyone):
                if entered[rank] < entered[self.rank]:
                    raise self._lost(rank)
            if sender in self._done:
                raise self._lost(sender, "it has come to its end, this rank has not")
            if not self._listen(last):
                slowest = min(everyone, key=lambda rank: entered[rank])
                raise self._lost(slowest, f"no answer for {seconds:g} seconds")
        self._words[channel, sender] -= 1

    def _listen(self, last: float | None) -> bool:
        """Take what has come, or comes until the time `last`. False if nothing does."""
        ready = dict(self._poll.poll(None if last is None else max(0.0, last - time.monotonic()) * 1e3))
        if self._inbox in ready:  # first: a rank may have ended after its last word
            if words := os.read(self._inbox, 4096):
                self._words.update(WORD.iter_unpack(words))
                return True
        for end, event in ready.items():
            if end == self._inbox:  # closed: all others have ended
                self._poll.unregister(end)
                continue
            rank = self._lines[end]
            if self.table["ended"][rank]:
                self._done.add(rank)
            else:
                if event & select.POLLHUP:
                    raise self._lost(rank)
                self._failing.add(rank)
            self._poll.unregister(end)
        return bool(ready)

    # ------------------------------------------------------------------------------------------ the end

    def end(self, error: BaseException | None = None, seconds: float = 0.0) -> None:
        """Called in every process. A child does not return from it. In rank 0 all children have
        ended afterwards. Raises RankLost, where there is no other error, if one of them ended
        otherwise than well, or did not within a number of seconds (0: any number).
        """
        if not self.started:
            return
        if self.rank:
            self._end_child(error)
        last = time.monotonic() + seconds if seconds else None
        try:
            while error is None and (running := np.flatnonzero(~self.table["ended"][1:])).size:
                if self._failing:
                    raise self._lost(min(self._failing))
                if not self._listen(last):
                    raise self._lost(int(running[0]) + 1, f"it has not ended within {seconds:g} seconds")
        finally:
            self._end_children()
            self.started = False
            _close(self._inbox, self._line, *self._inboxes.values(), *self._lines)

    def _end_child(self, error: BaseException | None) -> None:
        """No clean-up of the program runs in a child: its files and threads are those of rank 0."""
        try:
            if error is None:
                self.table["ended"][self.rank] = True
            else:
                os.write(self._line, last_words(error, self.rank))
            if not isinstance(error, (type(None), RankLost)):
                waiting = select.poll()
                waiting.register(next(end for end, rank in self._lines.items() if rank == 0), select.POLLIN)
                waiting.poll(PATIENCE * 1e3)
        finally:
            os._exit(0 if error is None else 2 if isinstance(error, UserError) else 1)

    def _end_children(self) -> None:
        """Wait for those that are done, kill the others: what they hold is not wanted."""
        self._watching = False
        for rank, pid in self._pids.items():
            if not self.table["ended"][rank]:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self._sigchld is not None:
            signal.signal(signal.SIGCHLD, self._sigchld)

    def _child_ended(self, number, frame) -> None:
        """SIGCHLD: rank 0 notices at once, whatever it does, not only in the next collective."""
        for rank, pid in self._pids.items() if self._watching else ():
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and not self.table["ended"][rank]:
                raise self._lost(rank)
        if callable(self._sigchld):  # that of the program, for its other children
            self._sigchld(number, frame)

    # ------------------------------------------------------------------------------------------ errors

    def _lost(self, rank: int, why: str = "") -> RankLost:
        """The error for a rank that has ended, or does not answer. Rank 0 names the first cause."""
        if self.rank:
            if rank == 0 and not why:
                os._exit(1)
            return self._error(rank, why or ENDED)
        self._watching = False
        for end, sender in self._lines.items():
            if text := _read(end):
                self._reports[sender] = json.loads(text)
        for report in self._reports.values():
            if report["why"] != ENDED:
                error = self._error(report["rank"], report["why"])
                error.__cause__ = InChild(report["traceback"], report["defect"])
                return error
        if why:
            return self._error(rank, why)
        missed = {report["rank"] for report in self._reports.values()}  # of which some only missed others in turn
        rank = min(missed - self._reports.keys(), default=rank)
        return self._error(rank, how_it_ended(os.waitid(os.P_PID, self._pids[rank], os.WEXITED | os.WNOWAIT)))

    def _error(self, rank: int, why: str) -> RankLost:
        step, doing = self.table["step"][rank], self.table["doing"][self.rank] or self.table["doing"][rank]
        return RankLost(rank, None if step == NO_STEP else int(step), doing.decode(), why)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 counts the threads of the BLAS, which ends and starts its own around a fork.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


def _close(*ends: int) -> None:
    for end in ends:
        os.close(end)


def _read(end: int) -> bytes:
    try:
        return os.read(end, select.PIPE_BUF)
    except BlockingIOError:
        return b""
