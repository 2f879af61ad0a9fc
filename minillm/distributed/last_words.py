"""Why a process has ended, in one line: by its own report, or by what the system says of it."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback

from minillm.distributed.communicator import RankLost
from minillm.errors import UserError
from minillm.files.atomic import describe_os_error

ENDED = "it has ended"  # what a rank knows of another one
OUT_OF_MEMORY = "out of memory"  # what it says of itself


class InChild(Exception):
    """The traceback of another process, as the cause of the error that rank 0 raises. is_defect: as
    the function of this name says of the error there.
    """

    def __init__(self, traceback: str, is_defect: bool):
        super().__init__(traceback)
        self.is_defect = is_defect


def last_words(error: BaseException, rank: int) -> bytes:
    """JSON: the rank that is lost, why, and the traceback; short enough for one write into a pipe.

    rank: that in which the error was raised. It is not lost itself where it only misses another.
    """
    if isinstance(error, RankLost):
        rank, why = error.rank, error.why
    else:
        why = in_one_line(error)
    kept = select.PIPE_BUF // 8  # characters, which JSON may write with six bytes
    lines = "".join(traceback.format_exception(error))
    return json.dumps(
        {"rank": rank, "why": why[: kept // 2], "traceback": lines[-kept // 2 :], "defect": is_defect(error)}
    ).encode()


def in_one_line(error: BaseException) -> str:
    """An error that a user can mend by its message; another one with its class and place."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, MemoryError):
        return f"{OUT_OF_MEMORY}: {error}".removesuffix(": ")
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    what = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    place = traceback.extract_tb(error.__traceback__)
    return f"{what} ({os.path.basename(place[-1].filename)}, line {place[-1].lineno})" if place else what


def is_defect(error: BaseException) -> bool:
    """Whether an error is one of the program, whose traceback is wanted."""
    return isinstance(error, Exception) and not isinstance(error, (UserError, OSError, MemoryError))


def traceback_behind(error: UserError) -> str:
    """The traceback of the defect that ended a rank; "" where there is none."""
    cause = error.__cause__ if isinstance(error, RankLost) else None
    if isinstance(cause, RankLost):  # the transport's, which watch.py has completed
        cause = cause.__cause__
    if isinstance(cause, InChild):
        return str(cause) if cause.is_defect else ""
    return "".join(traceback.format_exception(cause)) if cause is not None and is_defect(cause) else ""


def how_it_ended(information: os.waitid_result) -> str:
    """What the system says of a process that has ended."""
    if information.si_code == os.CLD_EXITED:
        return f"it ended with exit code {information.si_status}"
    memory = ", as the system does where memory has run out" if information.si_status == signal.SIGKILL else ""
    return f"it was killed by {signal.Signals(information.si_status).name}{memory}"
