"""Work in several processes gives what one process gives: results in order, and errors in their turn."""

import os
import signal
import sys
import threading

import pytest
from children import children

from minillm.checks.cases import problems_of, report_or_error
from minillm.checks.side_by_side import side_by_side

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one process")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """As in the command, which has no other thread yet; the process of a test may have one. No child is left."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    before = children()
    yield
    assert children() == before


def run(pieces, do, processes=2):
    found = []
    with side_by_side(pieces, do, processes) as results:
        found.extend(results)
    return found


def test_results_come_in_the_order_of_the_pieces_from_other_processes():
    found = run(range(40), lambda piece: (piece, os.getpid()))
    assert [piece for piece, _ in found] == list(range(40))
    assert os.getpid() not in {pid for _, pid in found}


@pytest.mark.parametrize("pieces, processes", [([], 2), ([3], 1), (range(5), 1), (range(2000), 2)])
def test_one_process_where_there_is_nothing_to_share_out(pieces, processes):
    assert set(run(pieces, lambda piece: os.getpid(), processes)) <= {os.getpid()}


def test_one_process_beside_other_threads(monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert set(run(range(5), lambda piece: os.getpid())) == {os.getpid()}


def test_an_error_is_raised_here_after_the_results_before_it():
    found = []

    def fails(piece):
        return 1 // (piece - 5)

    with pytest.raises(ZeroDivisionError), side_by_side(range(9), fails, 2) as results:
        for result in results:
            found.append(result)
    assert found == [1 // (piece - 5) for piece in range(5)]


def test_what_a_lost_process_had_is_done_here():
    """Both ends of a process: killed, and a result that no pipe takes."""
    here = os.getpid()

    def do(piece):
        if piece == 3 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return (lambda: piece) if piece == 6 else piece

    found = run(range(10), do)
    assert found[6]() == 6 and found[:6] + found[7:] == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_leaving_early_ends_the_processes():
    def do(piece):
        return piece if piece < 2 else signal.pause()

    with side_by_side(range(9), do, 2) as results:
        assert next(results) == 0


def test_reports_and_failures_are_those_of_one_process(monkeypatch):
    monkeypatch.setattr("minillm.layers.softmax.softmax_backward", lambda dp, saved: saved * dp)
    problems = [(case, problem) for _, case, problem in problems_of(["softmax", "bias", "dpo"])]
    found, expected = (run(problems, lambda problem: report_or_error(*problem), number) for number in (2, 1))
    assert list(map(repr, found)) == list(map(repr, expected))
    (failure,) = (each for each in found if isinstance(each, AssertionError))
    (wanted,) = (each for each in expected if isinstance(each, AssertionError))
    assert str(failure) == str(wanted) and repr(failure.report.rows) == repr(wanted.report.rows)
