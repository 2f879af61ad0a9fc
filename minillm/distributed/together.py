"""What one rank does for all, or all do at once, ends in all ranks alike.

A rank that raises an error while the others wait in the next collective leaves them waiting. So
where a rank may fail by itself (a full disk, a file that it does not see), the ranks tell each
other how it went before they go on:

    with together(communicator):
        if communicator.rank == 0:
            write_the_file()        # an error here is raised by all ranks

Cost: the largest of one number over all ranks, which also is a barrier; the messages only where
there are some.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minillm.distributed.communicator import Communicator
from minillm.errors import UserError


@contextmanager
def together(communicator: Communicator) -> Iterator[None]:
    """Inside, an OSError or a UserError of any rank becomes one of all ranks; its message names the
    rank. All ranks have left when the first goes on.

    With one rank errors stay as they are. Errors of other kinds are none that ranks could go on
    from: they end their rank.
    """
    found = None
    try:
        yield
    except (OSError, UserError) as error:
        if communicator.size == 1:
            raise
        found = error
    if communicator.size > 1:
        reports = texts_of_all(communicator, "" if found is None else _report(found, communicator.rank))
        for report in filter(None, reports):  # the first rank's, in all ranks
            raise _error(report) from found


def text_of_rank_0(communicator: Communicator, text: str) -> str:
    """The text that rank 0 gave; what others give is not used."""
    return texts_of_all(communicator, text if communicator.rank == 0 else "")[0]


def texts_of_all(communicator: Communicator, text: str) -> list[str]:
    """The texts that the ranks give, in their order."""
    own = np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
    longest = np.array([own.size], np.int64)
    communicator.maximum(longest)
    if not longest[0]:
        return [""] * communicator.size
    table = np.zeros((communicator.size, longest[0]), np.int64)
    table[communicator.rank, : own.size] = own
    rows = table.reshape(-1)
    communicator.maximum(rows)
    return [
        bytes(row.astype(np.uint8)).rstrip(b"\0").decode("utf-8", "surrogateescape")
        for row in rows.reshape(table.shape)
    ]


def _report(error: OSError | UserError, rank: int) -> str:
    """An error as a text for other ranks."""
    where = f"rank {rank} on {socket.gethostname()}"
    if isinstance(error, OSError):
        text = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return json.dumps({"errno": error.errno, "text": f"{text} ({where})", "file": _as_text(error.filename)})
    return json.dumps({"class": type(error).__name__, "text": f"{error} ({where})"})


def _error(report: str) -> OSError | UserError:
    """The error of a report: of the same class, so that the same lines catch it in all ranks."""
    contents = json.loads(report)
    if "errno" in contents:
        return OSError(contents["errno"], contents["text"], contents["file"])
    known = {each.__name__: each for each in _with_subclasses(UserError)}
    error = Exception.__new__(known.get(contents["class"], UserError))  # whatever its own arguments are
    error.args = (contents["text"],)
    return error


def _as_text(file) -> str | None:
    return None if file is None else os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else str(file)


def _with_subclasses(kind: type) -> Iterator[type]:
    yield kind
    for each in kind.__subclasses__():
        yield from _with_subclasses(each)
