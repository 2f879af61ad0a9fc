"""Standard input, output and error, as the world gives them: closed, full, or in an encoding that
lacks characters.
"""

from __future__ import annotations

import io
import os
import sys
import traceback

from minillm.files.atomic import decode_text, naming


def open_streams() -> None:
    """Make all three usable. Call it before any file is opened.

    A character that the output's encoding lacks is replaced by "?". A stream that is closed refuses
    what is asked of it (for standard error: drops it); without that, the next file that is opened
    would get its number, and what is printed.
    """
    for number, opposite in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, opposite)  # the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or _named(open(1, "w", encoding="utf-8", closefd=False))
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)
    if sys.stdout is sys.__stdout__ and type(_raw(sys.stdout)) is io.FileIO:
        sys.stdout = _named(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="replace")


def silence() -> None:
    """Drop what is printed from here on, for a rank that leaves it to the first one. An exception
    that would be a traceback still is.
    """
    errors, sys.stdout, sys.stderr = sys.stderr, open(os.devnull, "w"), open(os.devnull, "w")

    def show(kind, error, trace):
        traceback.print_exception(kind, error, trace, file=errors)

    sys.excepthook = show


class _Output(io.FileIO):
    """A file whose errors say that they are those of standard output."""

    def write(self, data):
        with naming("standard output"):
            return super().write(data)


def _raw(stream):
    """The file below a text stream; with python -u there is no buffer between them."""
    return getattr(stream.buffer, "raw", stream.buffer)


def _named(stream):
    settings = dict(encoding=stream.encoding, errors=stream.errors, line_buffering=stream.line_buffering)
    file = _Output(stream.fileno(), "w", closefd=False)
    below = file if stream.buffer is _raw(stream) else io.BufferedWriter(file)
    return io.TextIOWrapper(below, write_through=stream.write_through, **settings)


def finish_output() -> None:
    """Write out what is left. What standard output does not take is forgotten: Python would try
    again when it ends.
    """
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def read_input() -> str:
    """All of standard input, which must be UTF-8. Raises UserError if it is not, OSError if it is
    closed.
    """
    with naming("standard input"):
        return decode_text(sys.stdin.buffer.read(), "standard input")
