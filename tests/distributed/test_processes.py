"""How processes end: a dead one, a failing one, one that hangs, and a parent that is killed; nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from minillm.distributed import processes
from minillm.distributed.communicator import RankLost
from minillm.distributed.processes import can_fork, why_not_fork
from minillm.distributed.workers import Workers
from minillm.errors import UserError


def children() -> list[int]:
    """The children of this process, dead ones that were not waited for included."""
    return [int(pid) for pid in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = children(), open_files(), signal.getsignal(signal.SIGCHLD)
    yield
    assert (children(), open_files(), signal.getsignal(signal.SIGCHLD)) == before


def lost(ranks: int, fail, deadline: float = 60.0, doing="sum") -> RankLost:
    """The error of rank 0 when each rank calls fail(communicator) in step 7, and a sum then."""
    with pytest.raises(RankLost) as caught, Workers(ranks, deadline) as communicator:
        communicator.start()
        communicator.sum(np.zeros(1))
        communicator.step = 7
        fail(communicator)
        communicator.sum(np.zeros(1))
        communicator.barrier()
        time.sleep(60)
    error = caught.value
    if error.rank == 0:  # it was in no collective
        doing = ""
    assert str(error) == f"rank {error.rank} is lost in step 7, {doing or 'between two collectives'}: {error.why}"
    assert (error.step, error.collective) == (7, doing)
    return error


@pytest.mark.parametrize("ranks", [2, 5])
def test_a_child_that_is_killed(ranks):
    def fail(communicator):
        if communicator.rank == ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    error = lost(ranks, fail)
    assert error.rank == ranks - 1
    assert error.why == "it was killed by SIGKILL, as the system does where memory has run out"


def test_a_killed_child_is_noticed_outside_of_a_collective():
    def fail(communicator):
        communicator.barrier()
        if communicator.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            sum(range(1000))

    assert lost(3, fail, doing="").rank == 1


def test_a_child_that_leaves():
    def fail(communicator):
        if communicator.rank == 1:
            os._exit(3)

    assert lost(3, fail).why == "it ended with exit code 3"


def test_a_child_that_fails_says_why():
    def fail(communicator):
        if communicator.rank == 2:
            raise UserError("part 3 of the text cannot be read")

    error = lost(4, fail)
    assert (error.rank, error.why) == (2, "part 3 of the text cannot be read")
    assert 'raise UserError("part 3 of the text cannot be read")' in str(error.__cause__)


def test_a_defect_in_a_child_has_its_place():
    def fail(communicator):
        if communicator.rank == 1:
            raise ZeroDivisionError("of\nnumbers")

    error = lost(3, fail)
    assert error.rank == 1 and error.why.startswith("ZeroDivisionError: of numbers (test_processes.py, line ")


def test_memory_that_runs_out_in_a_child():
    def fail(communicator):
        if communicator.rank == 1:
            raise MemoryError

    assert lost(2, fail).why == "out of memory"


def test_long_words_of_any_letters_fit():
    def fail(communicator):
        if communicator.rank == 1:
            raise UserError("\N{SNOWMAN}" * 100_000)

    assert set(lost(2, fail).why) == {"\N{SNOWMAN}"}


@pytest.mark.parametrize("hanging", [0, 1, 2])
def test_a_rank_that_hangs_is_named_at_the_deadline(hanging):
    def fail(communicator):
        if communicator.rank == hanging:
            time.sleep(60)

    error = lost(4, fail, deadline=0.3)
    assert (error.rank, error.why) == (hanging, "no answer for 0.3 seconds")


@pytest.mark.parametrize("size", [2, 3])
def test_a_child_that_comes_to_its_end_too_early(size):
    """Also without a deadline."""
    with pytest.raises(RankLost, match="rank 1 is lost in barrier: it has come to its end, this rank has not"):
        with Workers(size) as communicator:
            communicator.start()
            communicator.barrier()
            if communicator.rank != 1:
                communicator.barrier()


def test_a_child_that_does_not_come_to_its_end():
    with pytest.raises(RankLost, match="rank 1 is lost: it has not ended within 0.3 seconds"):
        with Workers(2, 0.3) as communicator:
            communicator.start()
            if communicator.rank == 1:
                time.sleep(60)


def test_an_error_of_rank_0_stays_what_it_is():
    with pytest.raises(KeyError, match="mine"), Workers(3, 60) as communicator:
        communicator.start()
        if communicator.rank == 0:
            raise KeyError("mine")
        communicator.barrier()


def test_an_error_of_all_ranks_is_that_of_rank_0():
    """All see the same numbers, and come to the same end: a child does not overtake rank 0 with its report."""
    for _ in range(10):
        with pytest.raises(UserError, match="^diverged$"), Workers(4, 60) as communicator:
            communicator.start()
            communicator.sum(np.zeros(1))
            if communicator.rank == 0:
                sum(range(100_000))
            raise UserError("diverged")


def test_a_killed_parent_takes_its_children_along():
    """Also those that are busy, and those that wait without a deadline."""
    program = (
        "import os, time; from minillm.distributed.workers import Workers\n"
        "with Workers(4) as communicator:\n"
        "    communicator.start()\n"
        "    if communicator.rank == 0: print(*communicator._processes._pids.values(), flush=True); time.sleep(60)\n"
        "    if communicator.rank == 1: time.sleep(60)\n"
        "    communicator.barrier()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3 and all(map(is_running, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_left_to_rank_0(number):
    """As from a terminal or a scheduler: all processes of the group get them."""
    program = (
        "import signal; from minillm.distributed.workers import Workers\n"
        "import numpy as np\n"
        "caught = []\n"
        f"signal.signal({int(number)}, lambda *_: caught.append(1))\n"
        "with Workers(3, 60) as communicator:\n"
        "    communicator.start()\n"
        "    communicator.barrier()\n"
        "    if communicator.rank == 0: print('ready', flush=True)\n"
        "    stop = np.zeros(1)\n"
        "    while not stop:\n"
        "        stop[0] = len(caught)\n"
        "        communicator.maximum(stop)\n"
        "    assert len(caught) == (communicator.rank == 0)\n"
        "print('saved')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout.readline() == "ready\n"
    os.killpg(parent.pid, number)
    assert parent.communicate(timeout=60)[0] == "saved\n" and parent.returncode == 0


def test_children_print_nothing_and_run_nothing_of_the_end_of_a_program():
    program = (
        "import atexit, os, sys, warnings; from minillm.distributed.workers import Workers\n"
        "atexit.register(print, 'the end')\n"
        "sys.stdout.write('first')\n"  # in the buffer when the program forks
        "with Workers(3, 60) as communicator:\n"
        "    communicator.start()\n"
        "    if communicator.rank:\n"
        "        print('child'); warnings.warn('child'); os.write(1, b'child'); os.write(2, b'child')\n"
        "print(' last')\n"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("first last\nthe end\n", "", 0)


def test_a_lock_on_a_folder_outlives_the_children(tmp_path):
    """A child has the descriptor, too: the lock is not given up when the child ends."""
    fcntl = pytest.importorskip("fcntl")
    ours, theirs = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(ours, fcntl.LOCK_EX)
    with Workers(2, 60) as communicator:
        communicator.start()
    with pytest.raises(BlockingIOError):
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(ours)
    fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(theirs)


def test_a_program_keeps_its_own_children():
    """Rank 0 waits for the processes that it forked, and for no other."""
    other = subprocess.Popen([sys.executable, "-c", ""])
    with Workers(3, 60) as communicator:
        communicator.start()
        communicator.barrier()
        if communicator.rank == 0:
            assert subprocess.run(["true"]).returncode == 0
    assert other.wait(timeout=60) == 0


def test_processes_that_cannot_be_started(monkeypatch):
    fork, forked = os.fork, []

    def fork_twice():
        if len(forked) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        forked.append(1)
        return fork()

    monkeypatch.setattr(os, "fork", fork_twice)
    with pytest.raises(UserError, match="process 3 of 5 cannot be started: Resource temporarily unavailable"):
        with Workers(5, 60) as communicator:
            communicator.start()
            communicator.barrier()


def test_where_processes_cannot_be_forked(monkeypatch):
    assert can_fork() and why_not_fork() == ""
    assert why_not_fork("cudasim") == "the device is cudasim: its state does not survive a fork"
    event, reasons = threading.Event(), []
    thread = threading.Thread(target=lambda: (reasons.append(why_not_fork()), event.wait(60)), name="reader")
    thread.start()
    try:
        assert why_not_fork() == "other threads are running, which a fork would lose: reader"
        with pytest.raises(UserError, match="2 processes cannot be started: other threads are running.*use threads"):
            with Workers(2) as communicator:
                communicator.start()
    finally:
        event.set()
        thread.join()
    assert reasons == ["this is not the main thread, which alone gets signals"]
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    assert why_not_fork() == "processes are forked on Linux only, this is darwin"


def is_running(pid: int) -> bool:
    """A process whose parent is gone may be a zombie for a moment."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 30.0) -> None:
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.01)
