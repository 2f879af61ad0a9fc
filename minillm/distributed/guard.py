"""The guard: a process of its own that notices when a rank is lost, says so in one line, and ends
the others.

It is no thread of a rank: what starts the ranks (mpiexec, SLURM) kills all of them as soon as one
has died, with a signal that cannot be caught, within milliseconds and without a reason. The guard
is in a session of its own, so it is left to say which rank was the first.

Each rank has a connection to it (watch.py) and tells many times a second where it is. The system
closes the connection of a process that dies, however it dies. Lines of JSON go to the guard

    {"pid", "host"}                               once: who I am
    {"step", "doing", "phase", "moved"}           where I am; `moved` differs whenever something was done
    {"failed": why, "line", "traceback",          an exception ended me
     "consequence", "rank"}                       (it says that another rank is lost)
    {"done": true}                                I end as planned; or, of rank 0, I raise the error

and from it

    an empty line, to rank 0                      I watch
    {"together": true}                            all ranks have failed, as one program: each goes on with its error
    {"lost": rank, "step", "doing", "why",        end
     "hanging"}

Only the standard library is used: the file is run by its path, and starts in some milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

SETTLE = 0.3  # seconds after a death until the last messages of the others are here
TOGETHER = 2.0  # seconds within which an error is raised by all ranks, if it is one of all
ENDING = 1.5  # seconds for a rank to end by itself, once told
TAKING = 4.0  # seconds for rank 0 to tell the user itself, once told
LEAST_DEADLINE, STEPS, PHASES = 60.0, 10, 10  # without --deadline: STEPS longest steps; PHASES deadlines for a phase


@dataclass(eq=False)
class Rank:
    """What the guard knows of a rank. Times are those of time.monotonic()."""

    link: socket.socket
    started: float
    received: bytes = b""
    who: dict = field(default_factory=dict)
    place: dict = field(default_factory=lambda: {"step": None, "doing": "", "phase": "", "moved": None})
    failed: dict | None = None
    done: bool = False
    gone: bool = False

    def __post_init__(self):
        self.heard = self.moved = self.step_since = self.started
        self.phase_in_step = False

    @property
    def is_lost(self) -> bool:
        return self.gone and not self.done and self.failed is None


class Guard:
    """Watches over ranks.

    links: rank -> the socket that is connected with it. deadline: seconds without any progress
    after which a rank is given up, 0 for one that fits the steps. launched: as
    `Communicator.launched`; if not, rank 0 tells the user what happened, unless it is the one that
    is lost. advice: ends the line.
    """

    def __init__(self, links: dict[int, socket.socket], deadline: float, launched: bool, advice: str):
        now = time.monotonic()
        self.ranks = {number: Rank(link, now) for number, link in links.items()}
        self.deadline, self.launched, self.advice = deadline, launched, advice
        self.longest_step = 0.0
        self._first_sign: float | None = None  # of an end: the time of the first death, or failure
        self._order: list[int] = []  # the ranks that died or failed, in this order
        self._oom_kills = oom_kills()
        self._ready = selectors.DefaultSelector()
        self._hung_up = select.epoll() if hasattr(select, "epoll") else None  # in the order in which it happened
        self._of_descriptor = {link.fileno(): number for number, link in links.items()}
        for number, link in links.items():
            link.setblocking(False)
            self._ready.register(link, selectors.EVENT_READ, number)
            if self._hung_up is not None:
                self._hung_up.register(link, select.EPOLLRDHUP)

    def watch(self) -> None:
        """Until all ranks have ended as planned, or one is lost and all have been ended."""
        while self._order or not all(rank.gone or rank.done for rank in self.ranks.values()):
            self._listen(0.05)
            if self.ranks[0].done and not self.launched:
                return  # rank 0 ends the others
            verdict = self.verdict(time.monotonic())
            if verdict == "together":
                self._tell({"together": True})
                self._wait(TAKING, [self.ranks[0]])  # it prints the error
                return
            if verdict is not None:
                self._end(verdict)
                return

    # ------------------------------------------------------------------------------- what is known

    def _listen(self, seconds: float) -> None:
        """Take in what comes within a number of seconds."""
        ended = [key.data for key, _ in self._ready.select(seconds) if not self._read(key.data)]
        if ended and self._hung_up is not None:
            in_order = [self._of_descriptor[descriptor] for descriptor, _ in self._hung_up.poll(0)]
            ended = list(dict.fromkeys([*in_order, *ended]))
        for number in ended:
            self._bury(number)

    def _read(self, number: int) -> bool:
        """Take in what a rank has said. False at its end."""
        rank = self.ranks[number]
        try:
            data = rank.link.recv(65536)
        except BlockingIOError:
            return True
        except OSError:  # reset: it died with unread data
            return False
        *lines, rank.received = (rank.received + data).split(b"\n")
        for line in lines:
            self.heard(number, json.loads(line), time.monotonic())
        return bool(data)

    def _bury(self, number: int) -> None:
        rank = self.ranks[number]
        rank.link.setblocking(True)
        while self._read(number):  # what it said before its end
            pass
        rank.gone = True
        self._ready.unregister(rank.link)
        if self._hung_up is not None:
            self._hung_up.unregister(rank.link)
        if rank.is_lost:
            self._noticed(number, time.monotonic())

    def heard(self, number: int, message: dict, now: float) -> None:
        """Take in a message of a rank."""
        rank = self.ranks[number]
        rank.heard = now
        if "pid" in message:
            rank.who = message
        elif "step" in message:
            self._follow(rank, message, now)
        elif "failed" in message:
            rank.failed = message
            self._noticed(number, now)
        elif "done" in message:
            rank.done = True

    def _follow(self, rank: Rank, place: dict, now: float) -> None:
        if place["step"] != rank.place["step"]:
            if rank.place["step"] is not None and not rank.phase_in_step:
                self.longest_step = max(self.longest_step, now - rank.step_since)
            rank.step_since, rank.phase_in_step = now, False
        rank.phase_in_step |= bool(place["phase"])
        if place != rank.place:
            rank.place, rank.moved = place, now

    def _noticed(self, number: int, now: float) -> None:
        self._order.append(number)
        if self._first_sign is None:
            self._first_sign = now

    # --------------------------------------------------------------------------------- the verdict

    def verdict(self, now: float) -> dict | str | None:
        """None while all is well or not yet clear, "together", or who is lost, where and why."""
        if self._first_sign is None:
            return self._hanging(now)
        dead = [number for number in self._order if self.ranks[number].is_lost]
        failed = [number for number in self._order if self.ranks[number].failed is not None]
        causes = [number for number in failed if not self.ranks[number].failed["consequence"]]
        if len(causes) == len(self.ranks):
            return "together"
        all_ended = len(dead) + len(failed) == len(self.ranks)
        if now - self._first_sign < (SETTLE if dead else TOGETHER) and not all_ended:
            return None
        first = next((number for number in self._order if number in dead or number in causes), None)
        if 0 in dead and not self.launched:
            first = 0  # its children are ended with it, while it outlives them
        if first is None:  # those that could not reach a rank are right, and it still lives
            failure = self.ranks[failed[0]].failed
            return {"lost": failure["rank"], **self._where(failed[0]), "why": failure["failed"], "hanging": False}
        failure = self.ranks[first].failed
        why = self._of_death(first) if failure is None else failure["failed"]
        return {"lost": first, **self._where(first), "why": why, "hanging": False}

    def _where(self, number: int) -> dict:
        """Step and collective. A rank that died told where it was a moment before, and the others
        wait for it in the collective that it did not come to, or did not leave. One that failed
        says where.
        """
        rank = self.ranks[number]
        own, others = rank.place, [other.place for other in self.ranks.values() if other is not rank]
        known = [own] if rank.failed is not None else [own, *others]
        step = max((place["step"] for place in known if place["step"] is not None), default=None)
        waiting = [place["doing"] for place in others if place["step"] == step and place["doing"]]
        said = own["doing"] or own["phase"]
        doing = [said, *waiting] if rank.failed is not None else [*waiting, said]
        return {"step": step, "doing": next(filter(None, doing), "")}

    def _of_death(self, number: int) -> str:
        here = self.ranks[number].who.get("host") == socket.gethostname()
        if here and oom_kills() > self._oom_kills:
            return f"{self._process(number)} was killed by the system: the memory was full"
        return f"{self._process(number)} was killed, or ended without a word"

    def _process(self, number: int) -> str:
        who = self.ranks[number].who
        return f"process {who['pid']} on {who['host']}" if who else "its process"

    def _hanging(self, now: float) -> dict | None:
        """The rank for which others have waited too long in a collective."""
        limit = self.deadline or max(LEAST_DEADLINE, STEPS * self.longest_step)
        living = [(number, rank) for number, rank in self.ranks.items() if not rank.done]
        waited = now - max((rank.moved for _, rank in living), default=now)
        if waited <= limit or not any(rank.place["doing"] for _, rank in living):
            return None
        outside = [(number, rank) for number, rank in living if not rank.place["doing"]]
        at_work = [rank for _, rank in outside if rank.place["phase"]]
        silent = [number for number, rank in living if rank not in at_work and now - rank.heard > limit / 2]
        hanging = silent or [number for number, rank in outside if rank not in at_work]
        if not hanging and outside and waited <= PHASES * limit:
            return None  # such as the checkpoint that a rank writes
        number = (hanging or [number for number, _ in outside or living])[0]
        why = f"{self._process(number)} has done nothing for {waited:.3g} seconds (--deadline)"
        return {"lost": number, **self._where(number), "why": why, "hanging": True}

    # ------------------------------------------------------------------------------------- the end

    def _end(self, verdict: dict) -> None:
        """Tell all ranks to end; see to it that they do; one line, by rank 0 or from here."""
        first, others = self.ranks[0], [rank for number, rank in self.ranks.items() if number]
        raises = not (self.launched or first.gone)
        if not raises:
            self._print(verdict)
        self._tell(verdict)
        self._wait(ENDING, others)
        self._kill(others)
        if raises:
            self._wait(TAKING, [first])
            if not first.done:
                self._print(verdict)
        if not first.done:
            self._kill([first])

    def _wait(self, seconds: float, ranks: list[Rank]) -> None:
        """Until ranks have ended, or, at the latest, for a number of seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not all(rank.gone for rank in ranks):
            self._listen(0.05)

    def _tell(self, message: dict) -> None:
        line = json.dumps(message).encode() + b"\n"
        for rank in self.ranks.values():
            with suppress(OSError):  # it has died
                rank.link.send(line)

    def _print(self, verdict: dict) -> None:
        line = self._failure(verdict).get("line") or lost_line(verdict)
        advice = f"; {self.advice}" if self.advice else ""
        behind = self._failure(verdict).get("traceback", "")
        self._write(f"{behind}minillm: {' '.join((line + advice).split())}\n")

    def _failure(self, verdict: dict) -> dict:
        """What the lost rank said of its exception, if it is one that ended it."""
        lost = self.ranks.get(verdict["lost"])
        return lost.failed if lost is not None and lost.failed else {}

    def _write(self, text: str) -> None:
        with suppress(OSError):  # standard error may be gone, too
            os.write(2, text.encode())

    def _kill(self, ranks: list[Rank]) -> None:
        """Those of this machine that have not ended."""
        for rank in ranks:
            if not rank.gone and rank.who.get("host") == socket.gethostname():
                with suppress(ProcessLookupError):
                    os.kill(rank.who["pid"], signal.SIGKILL)


def lost_line(verdict: dict) -> str:
    """What a verdict says, as `RankLost` words it."""
    where, step = verdict["doing"], verdict["step"]
    if step is not None:
        where = f"step {step}, {where or 'between two collectives'}"
    return f"rank {verdict['lost']} is lost{' in ' + where if where else ''}: {verdict['why']}"


def oom_kills() -> int:
    """How many processes the system has killed since its start because the memory was full."""
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with suppress(OSError), open(path) as file:
            counts = dict(line.split() for line in file)
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def main(arguments: str) -> None:
    """arguments: JSON with what `Guard` takes; the sockets as descriptors of this process."""
    given = json.loads(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the ranks have ended
    links = {rank: socket.socket(fileno=descriptor) for rank, descriptor in given["ranks"]}
    guard = Guard(links, given["deadline"], given["launched"], given["advice"])
    links[0].send(b"\n")  # from now on the first of several deaths is known
    guard.watch()


if __name__ == "__main__":
    main(sys.argv[1])
