"""What all ranks have to agree on before the first step, and what is said, by name, if they do not.

Ranks on several machines may have other versions, other files, or a folder of their own under the
same name. Nothing of this ends a training: it would go on, with a result that is wrong or cannot be
resumed. So each rank says what it has, and all compare. All of them raise the same error.

    refused    versions of minillm, Python (3.x) and NumPy; settings; the contents of files; a folder
               that only some ranks see; no room for the next checkpoint
    noted      the processor and the BLAS: NumPy and OpenBLAS choose their kernels by them, and
               another kernel rounds differently. The weights are equal on all ranks all the same:
               each is updated by its owner, and sent to all. But the last bits of a gradient depend
               on which rank computes it, and so the result depends on the number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from minillm.backend.threads import blas_kernels
from minillm.distributed.communicator import Communicator
from minillm.errors import UserError
from minillm.version import __version__

SECONDS_TO_SEE = 20.0  # until a new file is seen on another machine: a network file system keeps lists of names
LOOK_EVERY = 0.1  # seconds
BLOCK = 1 << 20  # bytes read at a time
LONG_LIST = 8  # words


def agree(communicator: Communicator, facts: Mapping[str, object]) -> None:
    """Raises UserError, the same on all ranks, that names the first fact that differs, and where.

    facts: name -> a value with a JSON form; None says nothing.
    """
    if found := differences(gathered(communicator, dict(facts))):
        raise UserError(f"{found[0]}: all ranks need the same")


def notes_on_bits(communicator: Communicator) -> list[str]:
    """Remarks, the same on all ranks, on what gives their results other last bits."""
    found = differences(gathered(communicator, rounding_facts()))
    return [f"{each}: the last bits of the result depend on the number of ranks" for each in found]


def versions() -> dict[str, str]:
    """What has to be the same on all ranks, whatever they compute."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"the version of minillm": __version__, "the version of Python": python, "that of NumPy": np.__version__}


def rounding_facts() -> dict[str, str]:
    """The kernels that compute here: of NumPy's own loops and of the BLAS."""
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    features = np._core._multiarray_umath.__cpu_features__
    return {
        "the BLAS": f"{found.get('name')} {found.get('version')}",
        "the BLAS's kernels": blas_kernels(),
        "the processor's instructions": " ".join(sorted(name for name, has in features.items() if has)),
    }


# ------------------------------------------------------------------------------------------------ files


def hashes(communicator: Communicator, paths: Iterable[Path]) -> dict[str, str | None]:
    """Facts: "the contents of PATH" -> a hash. One rank of a machine reads; None on the others."""
    hosts = [each["host"] for each in gathered(communicator, {})]
    reads = hosts.index(hosts[communicator.rank]) == communicator.rank
    with communicator.during("reading the data"):
        return {f"the contents of {path}": _hash(path) if reads else None for path in paths}


def _hash(path: Path) -> str:
    found = hashlib.blake2b(digest_size=8)
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                found.update(block)
    except FileNotFoundError:
        return "missing"
    return found.hexdigest()


def check_same_folder(communicator: Communicator, folder: Path, seconds: float = SECONDS_TO_SEE) -> None:
    """Raises UserError, the same on all ranks, if some do not see the folder of rank 0.

    Rank 0 writes a file with a random name there, and the others look for it. They look for some
    seconds: a network file system may show a new file late.
    """
    token = np.frombuffer(secrets.token_bytes(8), np.uint8).copy()
    communicator.broadcast(token)
    path = folder / f".ranks-{token.tobytes().hex()}"
    writes = communicator.rank == 0
    error = _touch(path) if writes else ""
    try:
        everyones = gathered(communicator, {"error": error, "folder": str(folder.absolute())})
        root, host = everyones[0]["facts"], everyones[0]["host"]
        if root["error"]:
            raise UserError(f"rank 0 ({host}) cannot write into {root['folder']}: {root['error']}")
        with communicator.during("looking for the folder"):
            sees = writes or _appears(path, seconds)
        everyones = gathered(communicator, {"sees": sees})
    finally:
        if writes:
            path.unlink(missing_ok=True)
    blind = [rank for rank, each in enumerate(everyones) if not each["facts"]["sees"]]
    if blind:
        more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
        raise UserError(
            f"rank {blind[0]} ({everyones[blind[0]]['host']}){more} does not see the folder {root['folder']} of rank 0 "
            f"({host}): it has to be on a file system that all machines share"
        )


def _touch(path: Path) -> str:
    """Make a file; what the system says if it refuses."""
    try:
        path.touch()
    except OSError as error:
        return error.strerror
    return ""


def _appears(path: Path, seconds: float) -> bool:
    """Whether a file is there within a number of seconds. The list of names comes from the server,
    where the answer to a single name may be an old one.
    """
    until = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            if path.name in os.listdir(path.parent):
                return True
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_EVERY)


def check_room(communicator: Communicator, folder: Path, needed: int) -> None:
    """Raises UserError, the same on all ranks, if there are not `needed` bytes left on the disk of
    the folder, as rank 0 sees it.
    """
    free = np.array([shutil.disk_usage(folder).free if communicator.rank == 0 else 0], np.int64)
    communicator.broadcast(free)
    if free[0] < needed:
        raise UserError(
            f"{folder}: the next checkpoint needs {needed / 1e6:,.1f} MB, and {free[0] / 1e6:,.1f} MB are left: make room "
            "there, or use another place"
        )


# ------------------------------------------------------------------------------------------------ exchange


def gathered(communicator: Communicator, facts: dict) -> list[dict]:
    """[{"host", "facts"}] of all ranks, on all ranks."""
    data = np.frombuffer(json.dumps({"host": socket.gethostname(), "facts": facts}).encode(), np.uint8)
    lengths = np.zeros(communicator.size, np.int64)
    lengths[communicator.rank] = len(data)
    communicator.all_gather(lengths, range(communicator.size + 1))
    bounds = [0, *np.cumsum(lengths).tolist()]
    everything = np.zeros(bounds[-1], np.uint8)
    everything[bounds[communicator.rank] : bounds[communicator.rank + 1]] = data
    communicator.all_gather(everything, bounds)
    return [json.loads(everything[start:stop].tobytes()) for start, stop in zip(bounds, bounds[1:])]


def differences(everyones: list[dict]) -> list[str]:
    """For each fact that differs the first value and the first other one, with their ranks.

    everyones: as `gathered` gives them.
    """
    names = dict.fromkeys(name for each in everyones for name in each["facts"])
    return [found for name in names if (found := _difference(name, everyones))]


def _difference(name: str, everyones: list[dict]) -> str:
    values = [each["facts"].get(name, "none") for each in everyones]
    known = [rank for rank, value in enumerate(values) if value is not None]
    others = [rank for rank in known if values[rank] != values[known[0]]]
    if not others:
        return ""
    first, other = known[0], others[0]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (
        f"{name}: {_shown(values[first], values[other])} on rank {first} ({everyones[first]['host']}), "
        f"{_shown(values[other], values[first])} on rank {other} ({everyones[other]['host']}){more}"
    )


def _shown(value, other) -> str:
    """A value for a message; of a long list of words those that the other has not."""
    words = str(value).split()
    if len(words) <= LONG_LIST:
        return str(value)
    return " ".join(word for word in words if word not in str(other).split()) or "none of these"
