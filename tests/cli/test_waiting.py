"""A line of life while something slow runs."""

import io
import sys
import time

import pytest

from minillm.cli import terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """A function that waits with a stream as standard error; returns what was printed. Seconds are
    made short.
    """
    monkeypatch.setattr(terminal, "SILENCE", 0.01)
    monkeypatch.setattr(terminal, "TICK", 0.001)

    def run(stream, seconds=0.2, **options):
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.waiting("measuring", **options):
            deadline = time.monotonic() + 5 if seconds else 0
            while time.monotonic() < deadline and not stream.getvalue():
                time.sleep(0.005)
        return stream.getvalue()

    return run


def test_seconds_on_a_terminal_are_erased_at_the_end(shown):
    text = shown(Terminal())
    assert text.startswith("\rmeasuring ... 0 s") and text.endswith("\r\x1b[K")


def test_elsewhere_one_line(shown):
    assert shown(io.StringIO()) == "measuring ...\n"


def test_what_is_fast_prints_nothing(monkeypatch, shown):
    monkeypatch.setattr(terminal, "SILENCE", 60.0)
    assert shown(Terminal(), seconds=0) == "" and shown(io.StringIO(), seconds=0) == ""


def test_a_phase_that_may_end_in_an_error_prints_no_plain_line(shown, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal.waiting("opening", plain=False):
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_an_error_comes_through(shown, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ZeroDivisionError), terminal.waiting("dividing"):
        raise ZeroDivisionError
