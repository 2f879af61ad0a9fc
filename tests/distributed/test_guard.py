"""What the guard concludes from what the ranks tell it, and from what they no longer tell. The clock is the test's."""

import json
import os
import socket
import time

import pytest

from minillm.distributed import guard as module
from minillm.distributed.guard import LEAST_DEADLINE, PHASES, SETTLE, STEPS, TOGETHER, Guard, lost_line

_open = []


@pytest.fixture(autouse=True)
def connections():
    yield
    while _open:
        _open.pop().close()


class Ranks:
    """A guard and the far ends of its connections. now: seconds since its start."""

    def __init__(self, size=3, deadline=0.0, launched=True):
        pairs = [socket.socketpair() for _ in range(size)]
        self.ends = [far for far, _ in pairs]
        _open.extend(end for pair in pairs for end in pair)
        self.guard = Guard({rank: near for rank, (_, near) in enumerate(pairs)}, deadline, launched, "resume")
        _open.extend((self.guard._ready, self.guard._hung_up))
        self.start = self.guard.ranks[0].started
        for rank in range(size):
            self.guard.heard(rank, {"pid": 1000 + rank, "host": "node"}, self.start)

    def at(self, rank, now, step=0, doing="", phase="", moved=0):
        self.guard.heard(rank, dict(step=step, doing=doing, phase=phase, moved=moved), self.start + now)

    def fails(self, rank, why, now=0.0, consequence=None, line=""):
        message = dict(failed=why, line=line, traceback="", consequence=consequence is not None, rank=consequence)
        self.guard.heard(rank, message, self.start + now)

    def dies(self, *ranks):
        for rank in ranks:
            self.ends[rank].close()
        while not all(self.guard.ranks[rank].gone for rank in ranks):
            self.guard._listen(1.0)

    def verdict(self, now):
        return self.guard.verdict(self.start + now)


def test_all_is_well():
    ranks = Ranks()
    for now in range(3):
        for rank in range(3):
            ranks.at(rank, now, step=now, doing="sum", moved=now)
    assert ranks.verdict(3) is None


def test_a_death_is_named_with_the_collective_that_the_others_wait_in():
    ranks = Ranks()
    ranks.at(0, 1, step=7, doing="all_gather")
    ranks.at(1, 1, step=6, doing="sum")
    ranks.dies(1)
    now = time.monotonic() - ranks.start
    assert ranks.verdict(now) is None, "the others' last messages are on their way"
    verdict = ranks.verdict(now + SETTLE)
    assert lost_line(verdict) == (
        "rank 1 is lost in step 7, all_gather: process 1001 on node was killed, or ended without a word"
    )


def test_the_first_of_many_deaths():
    ranks = Ranks(8)
    ranks.dies(5, 0, 1, 7, 2, 3, 4, 6)  # as a launcher kills all others when one has died
    assert ranks.verdict(0)["lost"] == 5


def test_messages_do_not_change_the_order_of_deaths():
    ranks = Ranks(4)
    for end in ranks.ends:
        end.sendall(b'{"step": 3, "doing": "sum", "phase": "", "moved": 0}\n' * 2)
    ranks.dies(2, 1, 3, 0)
    assert ranks.verdict(0)["lost"] == 2
    assert {rank.place["step"] for rank in ranks.guard.ranks.values()} == {3}, "what was said before is taken in"


def test_children_that_end_with_rank_0():
    ranks = Ranks(launched=False)
    ranks.dies(1, 0, 2)
    assert ranks.verdict(0)["lost"] == 0


def test_a_consequence_is_no_cause():
    ranks = Ranks()
    ranks.fails(0, "it has ended", consequence=2)
    ranks.dies(2)
    assert ranks.verdict(time.monotonic() - ranks.start + SETTLE)["lost"] == 2
    ranks = Ranks()
    ranks.fails(0, "no answer", consequence=2)
    verdict = ranks.verdict(TOGETHER)
    assert (verdict["lost"], verdict["why"]) == (2, "no answer")


def test_an_error_of_all_ranks_and_of_one():
    ranks = Ranks()
    for rank in range(3):
        assert ranks.verdict(0.1) is None
        ranks.fails(rank, "the loss is NaN")
    assert ranks.verdict(0.1) == "together"
    ranks = Ranks()
    ranks.at(0, 0, step=4, doing="sum")
    ranks.at(1, 0, step=4)
    ranks.fails(1, "out of memory")
    assert ranks.verdict(0.9 * TOGETHER) is None
    assert lost_line(ranks.verdict(TOGETHER)) == "rank 1 is lost in step 4, sum: out of memory"


def test_a_rank_that_hangs():
    ranks = Ranks(deadline=5.0)
    for rank in range(3):
        ranks.at(rank, 1, step=9, doing="" if rank == 2 else "sum")
        ranks.at(rank, 6, step=9, doing="" if rank == 2 else "sum")
    assert ranks.verdict(5.9) is None
    assert lost_line(ranks.verdict(6.5)) == (
        "rank 2 is lost in step 9, sum: process 1002 on node has done nothing for 5.5 seconds (--deadline)"
    )


def test_a_process_that_is_stopped_says_nothing_at_all():
    ranks = Ranks(deadline=5.0)
    for rank in range(3):
        ranks.at(rank, 1, doing="sum")
    for rank in (0, 1):
        ranks.at(rank, 6, doing="sum")
    assert ranks.verdict(6.5)["lost"] == 2


def test_slow_ranks_do_not_hang():
    """The first step may take long: in no collective, none waits for another."""
    ranks = Ranks(deadline=1.0)
    for rank in range(3):
        ranks.at(rank, 1, step=0)
    assert ranks.verdict(1000) is None


def test_work_of_one_rank_is_waited_for():
    def waiting(now, moved):
        ranks.at(0, now, phase="writing a checkpoint", moved=moved)
        for rank in (1, 2):
            ranks.at(rank, now, doing="barrier")

    ranks = Ranks(deadline=1.0)
    waiting(0, moved=0)
    for rank in (1, 2):
        ranks.at(rank, 5, doing="barrier")
    assert ranks.verdict(5) is None, "a library that writes for long may keep the thread from speaking"
    waiting(PHASES - 0.5, moved=0)
    assert ranks.verdict(PHASES - 0.5) is None
    waiting(PHASES - 0.4, moved=0.1)  # processor time
    waiting(2 * PHASES - 1, moved=0.1)
    assert ranks.verdict(2 * PHASES - 1) is None
    waiting(2 * PHASES, moved=0.1)
    assert lost_line(ranks.verdict(2 * PHASES)).startswith(
        "rank 0 is lost in step 0, barrier: process 1000 on node has"
    )


def test_the_deadline_follows_the_steps():
    ranks = Ranks()
    for now, step in ((0, 0), (20, 1), (50, 2)):  # the longest takes 30 s
        for rank in range(3):
            ranks.at(rank, now, step, doing="sum" if rank else "")
    assert ranks.guard.longest_step == 30
    assert ranks.verdict(50 + STEPS * 30) is None
    assert ranks.verdict(51 + STEPS * 30)["lost"] in (0, 1, 2)
    ranks = Ranks()
    ranks.at(0, 0, 0, doing="sum")
    ranks.at(1, 0, 0)
    ranks.at(1, 3, 0, phase="writing a sample")
    ranks.at(1, 500, 1)
    assert ranks.guard.longest_step == 0, "such work is no step"
    assert ranks.verdict(500 + LEAST_DEADLINE) is None
    assert ranks.verdict(501 + LEAST_DEADLINE) is not None


def test_a_system_that_was_out_of_memory_is_named(monkeypatch):
    ranks = Ranks()
    ranks.guard.heard(1, {"pid": 7, "host": socket.gethostname()}, ranks.start)
    ranks.dies(1)
    monkeypatch.setattr(module, "oom_kills", lambda: ranks.guard._oom_kills + 1)
    assert ranks.verdict(60)["why"].endswith("was killed by the system: the memory was full")


@pytest.mark.parametrize("launched, told", [(True, True), (False, False)])
def test_one_line_from_here_or_from_rank_0(launched, told, monkeypatch):
    written = []
    monkeypatch.setattr(os, "write", lambda descriptor, text: written.append(text.decode()))
    ranks = Ranks(launched=launched)
    ranks.fails(1, "out of memory")
    ranks.ends[0].sendall(b'{"done": true}\n')
    for end in ranks.ends[1:]:
        end.shutdown(socket.SHUT_WR)
    ranks.guard._end(ranks.verdict(TOGETHER))
    assert written == (["minillm: rank 1 is lost: out of memory; resume\n"] if told else [])
    said = json.loads(ranks.ends[2].recv(1000).split(b"\n")[0])
    assert (said["lost"], said["hanging"]) == (1, False)


def test_a_rank_that_does_not_end_is_killed(monkeypatch):
    killed = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    monkeypatch.setattr(os, "write", lambda *_: None)
    monkeypatch.setattr(module, "ENDING", 0.01)
    ranks = Ranks()
    for rank in (0, 1):
        ranks.guard.heard(rank, {"pid": 7 + rank, "host": socket.gethostname()}, ranks.start)
    ranks.guard._end({"lost": 1, "step": 3, "doing": "sum", "why": "it hangs", "hanging": True})
    assert killed == [8, 7], "that of another machine is not"
