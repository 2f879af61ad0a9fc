"""Files that are there whole or not at all.

Everything is written to a temporary name in the same folder, flushed to the disk, and renamed. A
reader sees the old file or the new one, never half of it, whenever the program is killed.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minillm.errors import UserError
from minillm.files.kinds import misnamed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TEMPORARY = ".tmp"  # what the names of files end with that are not finished yet
WHAT_HELPS = {
    errno.ENOSPC: "make room there, or use another place",
    errno.EDQUOT: "make room there, or use another place",
    errno.EROFS: "use a place that can be written to",
    errno.ENOMEM: "a smaller --batch-size, a shorter text or a smaller model takes less",
}
UTF_16 = {b"\xff\xfe": "little-endian", b"\xfe\xff": "big-endian"}


def write_atomically(path: str | Path, data: bytes) -> None:
    """Put `data` in the place of the file `path`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on leaving without an error that file takes the place of
    `path`. Its name is new each time: another machine may have an old one in its cache, and would
    open the file that bears the final name by now.

    Raises OSError, with `path` as its file name, where the system refuses: no space, no permission.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY}")
    try:
        with naming(path):
            temporary.touch()
            permissions = temporary.stat().st_mode  # that new files have here
            yield temporary
            os.chmod(temporary, permissions)  # whatever wrote it, or put another file in its place
            flush_to_disk(temporary)
            os.replace(temporary, path)
            flush_to_disk(path.parent)
    finally:
        with suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Inside, an error of the system names `path`: a write to an open file names none, one to a
    temporary file that one.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(TEMPORARY):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that were killed.

    Call it where no other process writes into `folder`.
    """
    for left in folder.glob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)


def save_tensors(tensors: dict, path: Path, metadata: dict[str, str]) -> None:
    """Write arrays as a safetensors file. Raises OSError where the system refuses.

    The library tells a full disk as an error of its own, with the system's number in its text.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def describe_os_error(error: OSError) -> str:
    """One line: the file, what the system said, and what helps.

    >>> describe_os_error(OSError(errno.ENOSPC, "No space left on device", "run/model.safetensors"))
    'run/model.safetensors: No space left on device: make room there, or use another place'
    """
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    where = "" if error.filename is None else f"{_as_text(error.filename)}: "
    second = "" if error.filename2 is None else f" ({_as_text(error.filename2)})"
    advice = f": {WHAT_HELPS[error.errno]}" if error.errno in WHAT_HELPS else ""
    return f"{where}{what}{second}{advice}"


def _as_text(name) -> str:
    return os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else str(name)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """One process at a time: the others wait.

    The lock goes with the process, however it ends; Windows has none here.
    """
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


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, line ends as they are, without the mark (BOM) that it may begin
    with.

    Raises OSError where it cannot be read, and UserError, with the byte, where it is something else
    than UTF-8.
    """
    return decode_text(Path(path).read_bytes(), str(path))


def decode_text(data: bytes, name: str) -> str:
    """The text of UTF-8 bytes, as `read_text` gives it.

    name: of the place that they come from, for messages.
    """
    refuse_utf_16(data, name)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not valid UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; save it as UTF-8 first"
        ) from None


def refuse_utf_16(start: bytes, name: str) -> None:
    """Raises UserError if the first bytes of a text are those of UTF-16, with its mark or without.

    Without it: every other byte of Latin text is 0, and of text in UTF-8 none is.
    """
    sample = start[:4096]
    order = UTF_16.get(sample[:2])
    zeros = [sample[first::2].count(0) / max(1, len(sample) // 2) for first in (0, 1)]
    if order is None and len(sample) >= 8 and max(zeros) > 0.7 and min(zeros) < 0.3:
        order = "big-endian" if zeros[0] > zeros[1] else "little-endian"
    if order is not None:
        raise UserError(f"{name} is UTF-16 text ({order}), not UTF-8: save it as UTF-8 first")


def read_json(path: str | Path) -> dict:
    """The JSON object in a file.

    Raises UserError if the file is missing, is no JSON, or is no object.
    """
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


def json_bytes(contents: dict) -> bytes:
    """The contents of a JSON file, indented, with a newline at its end."""
    return (json.dumps(contents, indent=2) + "\n").encode("utf-8")
