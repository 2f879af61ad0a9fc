"""Processes or threads, and how many: by what is asked for, and by what is possible here."""

import sys

import pytest

from minillm.distributed import choice, processes
from minillm.distributed.choice import Choice, choose, has_global_lock, why_threads
from minillm.distributed.machine import Machine


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(choice, "cores", lambda: 4)
    monkeypatch.setattr(choice, "thread_count", lambda: 4)
    monkeypatch.setattr(choice, "why_not_fork", lambda device: "" if device == "cpu" else "no fork")


@pytest.mark.parametrize(
    ("machine", "parts", "expected"),
    [
        (Machine(), 4, (4, 1)),
        (Machine(), 8, (4, 1)),
        (Machine(), 3, (3, 1)),
        (Machine(), 1, (1, 1)),
        (Machine(threads=1), 4, (4, 1)),
        (Machine(threads=2), 4, (2, 2)),
        (Machine(threads=2), 2, (1, 2)),
        (Machine(threads=4), 4, (1, 4)),
        (Machine(processes=2), 4, (2, 2)),
        (Machine(processes=8), 8, (8, 1)),
        (Machine(processes=2, threads=1), 4, (2, 1)),
        (Machine(processes=1), 4, (1, 4)),
    ],
)
def test_as_many_as_there_are_cores_and_parts(machine, parts, expected):
    chosen = choose(machine, parts)
    assert (chosen.processes, chosen.threads) == expected


def test_threads_where_nothing_else_is_possible(monkeypatch):
    assert choose(Machine(), 4, alone=True) == Choice(1, 4, "what looks into the training has this process alone")
    assert choose(Machine(processes=4), 4, alone=True).processes == 1
    assert choose(Machine(), 4, "cudasim") == Choice(1, 4, "no fork")
    monkeypatch.setattr(choice, "thread_count", lambda: None)
    assert choose(Machine(), 4).processes == 1 and "BLAS" in why_threads()


def test_one_core(monkeypatch):
    assert choose(Machine(), 1) == Choice(1, 1, "there is work for no more")
    monkeypatch.setattr(choice, "cores", lambda: 1)
    assert str(choose(Machine(), 4)) == "1 process, 1 thread each: there is one core"


def test_a_python_without_a_global_lock_has_threads(monkeypatch):
    """As python3.14t: its `sys` says whether the lock is on, as an extension module may turn it on."""
    assert has_global_lock() == getattr(sys, "_is_gil_enabled", lambda: True)()
    monkeypatch.setattr(choice.sys, "_is_gil_enabled", lambda: True, raising=False)
    assert choose(Machine(), 4).processes == 4
    monkeypatch.setattr(choice.sys, "_is_gil_enabled", lambda: False, raising=False)
    assert str(choose(Machine(), 4)) == (
        "1 process, 4 threads each: this Python has no global lock, so that threads are as fast as processes"
    )
    assert choose(Machine(processes=2), 4).processes == 2  # as asked for


def test_the_reason_of_the_system_is_given(monkeypatch):
    monkeypatch.setattr(choice, "why_not_fork", processes.why_not_fork)
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    assert choose(Machine(), 4).why == "processes are forked on Linux only, this is darwin"
