"""However a rank ends, all end, and one line names rank, step and collective. The ranks are processes."""

import os
import re
import signal
import time

import numpy as np
import pytest
from mpi_ranks import ranks

from minillm.distributed import guard
from minillm.distributed.communicator import RankLost
from minillm.distributed.watch import Watch, addresses
from minillm.distributed.workers import Workers
from minillm.errors import UserError

__all__ = ["ranks"]
ADVICE = "continue with --resume RUN"


def watched(fault, size=3, deadline=0.0, steps=4):
    """Steps of several ranks; in step 2 each calls fault(communicator)."""
    with Workers(size) as communicator:
        communicator.start()
        communicator.step = 0
        with Watch(communicator, deadline, ADVICE):
            for communicator.step in range(steps):
                if communicator.step == 2:
                    fault(communicator)
                communicator.sum(np.ones(5))
                communicator.barrier()
        return communicator.step


def of(rank, action):
    return lambda communicator: action() if communicator.rank == rank else None


def fail(error):
    raise error


def test_nothing_happens():
    assert watched(lambda communicator: None) == 3


@pytest.mark.parametrize(
    "action, why",
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "it was killed by SIGKILL, as the system does where memory has"),
        (lambda: os._exit(5), "it ended with exit code 5"),
        (lambda: fail(ValueError("of\na child")), "ValueError: of a child (test_watch.py, line "),
        (lambda: np.zeros(1 << 56), "out of memory: Unable to allocate"),
        (lambda: fail(UserError("no such thing")), "no such thing; "),
    ],
)
def test_a_child_that_ends(action, why, capfd):
    with pytest.raises(RankLost) as caught:
        watched(of(1, action))
    error = caught.value
    assert (error.rank, error.step) == (1, 2) and error.why.startswith(why) and str(error).endswith(f"; {ADVICE}")
    assert capfd.readouterr().err == "", "the one line is the error of rank 0"


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_hangs(rank, capfd):
    with pytest.raises(
        RankLost, match=rf"rank {rank} is lost in step 2, sum: process \d+ on .* has done nothing for"
    ) as caught:
        watched(of(rank, lambda: time.sleep(60)), deadline=0.3)
    assert str(caught.value).endswith(f"seconds (--deadline); {ADVICE}")
    assert capfd.readouterr().err == ""


def test_a_stopped_child_is_killed():
    with pytest.raises(RankLost, match="rank 1 is lost in step 2"):
        watched(of(1, lambda: os.kill(os.getpid(), signal.SIGSTOP)), deadline=0.3)


def test_work_of_one_rank_alone_is_no_hang():
    def work(communicator):
        if communicator.rank == 0:
            with communicator.during("writing a checkpoint"):
                until = time.monotonic() + 1.5
                while time.monotonic() < until:
                    sum(range(1000))

    assert watched(work, deadline=1.0) == 3


def test_a_defect_of_rank_0_has_its_cause():
    with pytest.raises(RankLost, match=r"rank 0 is lost in step 2, .*: ZeroDivisionError: here") as caught:
        watched(of(0, lambda: fail(ZeroDivisionError("here"))))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_that_all_raise_stays_what_it_is():
    with pytest.raises(UserError, match="^the loss is NaN$"):
        watched(lambda communicator: fail(UserError("the loss is NaN")))


def test_rank_0_is_killed(capfd):
    """In a process of its own: the guard alone is left to say it."""
    if not (pid := os.fork()):
        watched(of(0, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    where = r"step [012], (sum|barrier|between two collectives)"  # it told so a moment before
    said = rf"minillm: rank 0 is lost in {where}: process {pid} on .* was killed, or ended without a word; {ADVICE}"
    assert re.fullmatch(said, _line(capfd))


def _line(capfd):
    until, text = time.monotonic() + 10, ""
    while "\n" not in text and time.monotonic() < until:
        text += capfd.readouterr().err
        time.sleep(0.01)
    return text.removesuffix("\n")


def test_a_guard_that_is_killed_ends_no_process_of_this_machine():
    def fault(communicator):
        if communicator.rank == 0:
            watch._guard.kill()

    with Workers(2) as communicator:
        communicator.start()
        with Watch(communicator) as watch:
            fault(communicator)
            for _ in range(3):
                communicator.barrier()


def test_a_thread_that_first_runs_after_the_end():
    """On a busy machine the connection may be closed by then: the thread ends, without an exception."""
    with Workers(2) as communicator:
        communicator.start()
        with Watch(communicator) as watch:
            communicator.barrier()
    watch._work()


def test_one_process_has_no_guard():
    from minillm.distributed.alone import Alone

    with Watch(Alone()) as watch:
        assert watch._guard is None and watch.notes() == []


def test_the_addresses_of_this_machine():
    found = addresses()
    assert found[-1] == "127.0.0.1" and len(set(found)) == len(found)
    assert guard.LEAST_DEADLINE >= 60


# ---------------------------------------------------------------------------------------------- under mpiexec

PROGRAM = """
import os, signal, sys, time
import numpy as np
from minillm.distributed.launch import world
from minillm.distributed.watch import Watch
from minillm.errors import UserError

def user_error():
    raise UserError("the loss is NaN")

kind, rank = sys.argv[1], int(sys.argv[2])
faults = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": lambda: np.zeros(1 << 56),
    "hang": lambda: time.sleep(60),
    "error": user_error,
}
communicator = world()
communicator.step = 0  # what the guard hears at first: the steps may be over before it hears of another
try:
    with Watch(communicator, 0.5 if kind == "hang" else 0.0, "resume"):
        for communicator.step in range(4):
            if communicator.step == 2 and rank in (communicator.rank, -1):
                faults[kind]()
            communicator.sum(np.ones(5))
except UserError as error:
    if communicator.rank == 0:
        print(f"minillm: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
communicator.close()
"""


@pytest.mark.parametrize(
    "kind, rank, line",
    [
        ("kill", 1, r"rank 1 is lost in .+: process \d+ on .+ was killed, or ended without a word; resume"),
        ("kill", 0, r"rank 0 is lost in .+: process \d+ on .+ was killed, or ended without a word; resume"),
        ("memory", 1, "rank 1 is lost in step 2, sum: out of memory: Unable to allocate .*; resume"),
        ("hang", 0, r"rank 0 is lost in step 2, sum: process \d+ on .+ has done nothing for .+ seconds .*; resume"),
        ("error", -1, "the loss is NaN"),
    ],
)
def test_the_end_of_launched_ranks(ranks, kind, rank, line):
    """mpiexec kills all as soon as one has died; the line comes out all the same, and once."""
    done = ranks(3, "-c", PROGRAM, kind, str(rank))
    assert done.returncode != 0
    (said,) = [text for text in done.stdout.splitlines() if text.startswith("minillm: ")]
    assert re.fullmatch(f"minillm: {line}", said)
