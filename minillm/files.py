"""Files that are there whole or not at all.

Everything is written to a temporary name in the same folder, flushed to the disk, and renamed. A reader sees the old file or
the new one, never half of it, whenever the program is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minillm.errors import UserError
from minillm.file_kinds import misnamed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def write_atomically(path: str | Path, data: bytes) -> None:
    """Put `data` in the place of the file `path`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on leaving without an error that file takes the place of `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode  # that new files have here
        yield temporary
        os.chmod(temporary, permissions)  # whatever wrote it, or put another file in its place
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """One process at a time: the others wait. The lock goes with the process, however it ends; Windows has none here."""
    with open(path, "ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def flush_to_disk(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: str | Path) -> dict:
    """The JSON object in a file. Raises UserError if the file is missing, is no JSON, or is no object."""
    try:
        contents = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of thousands of digits, or too deep
        if kind := misnamed(path):
            raise UserError(f"{path} is {kind}") from None
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(contents, dict):
        raise UserError(f"{path} holds a {type(contents).__name__}, expected a JSON object")
    return contents
