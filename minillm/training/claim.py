"""One run folder, one process: a claim on a folder that ends with the process, however it ends.

The claim is an advisory lock (flock) on the folder itself: no stale file can be left behind, and
the lock moves with the folder when it is renamed. Where a folder cannot be locked (on Windows a
folder cannot be opened, and network file systems need a writable file), a file beside it,
`.NAME.lock`, is locked, and removed at the end. Without any locks `is_sure` is false.

Within a process a folder may be claimed several times: the claim ends with the last of them.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from minillm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK_TABLE = Path("/proc/locks")  # Linux: a line for each lock, with its owner
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
ATTEMPTS = 100  # to lock a file that its last owner is just removing


class FolderInUse(UserError):
    """Another process trains in the folder."""


class _Taken(Exception):
    def __init__(self, owner: int | None):
        self.owner = owner


class Claim:
    """A folder that belongs to this process until `release`, or until nothing refers to the claim
    any more.

    called: the folder that a message names, if it is another one. Raises FolderInUse if another
    process has it, and FileNotFoundError if there is no such folder.
    """

    def __init__(self, folder: str | Path, called: str | Path | None = None):
        self._lock = None
        folder = Path(folder)
        lock = _held.get(_identity(os.stat(folder))) or _held.get(folder.resolve())
        if lock is None:
            try:
                lock = _Lock(folder)
            except _Taken as taken:
                raise FolderInUse(_in_use(called or folder, taken.owner)) from None
        lock.count += 1
        self._lock = lock
        self.is_sure = lock.descriptor is not None

    def release(self) -> None:
        """Give it up; a second time nothing happens."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.count -= 1
            if not lock.count:
                lock.end()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception) -> None:
        self.release()

    def __del__(self):
        self.release()


_held: dict = {}  # locks of this process, by (device, inode) of a folder, or by path for a lock file


class _Lock:
    """A lock of the system on a folder, or on a file beside it."""

    def __init__(self, folder: Path):
        self.count, self._file = 0, None
        self.descriptor = _lock_folder(folder)
        if self.descriptor is None:
            self._file, self.descriptor = _lock_file_beside(folder)
        self._key = folder.resolve() if self._file or self.descriptor is None else _identity(os.fstat(self.descriptor))
        _held[self._key] = self

    def end(self) -> None:
        _held.pop(self._key, None)
        if self._file is not None and fcntl is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)  # while it is locked: the next owner checks that it still exists
        if self.descriptor is not None:
            os.close(self.descriptor)
        if self._file is not None and fcntl is None:
            with suppress(OSError):  # Windows: another process has opened it
                self._file.unlink(missing_ok=True)


def _identity(information: os.stat_result) -> tuple[int, int]:
    return information.st_dev, information.st_ino


def _lock_folder(folder: Path) -> int | None:
    """The descriptor of a locked folder; None where folders cannot be locked."""
    while fcntl is not None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(descriptor)
            os.close(descriptor)
            if error.errno in TAKEN:
                raise _Taken(owner) from None
            return None
        if _is_still(folder, descriptor):  # and not another one, put in its place meanwhile
            return descriptor
        os.close(descriptor)
    return None


def _lock_file_beside(folder: Path) -> tuple[Path | None, int | None]:
    """(.NAME.lock, its descriptor) of the locked file; (None, None) without locks."""
    real = folder.resolve()
    path = real.with_name(f".{real.name}.lock")
    for _ in range(ATTEMPTS):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None, None
        try:
            _lock_open_file(descriptor)
            if _is_still(path, descriptor):
                return path, descriptor
        except OSError as error:
            owner = _owner(descriptor)
            if error.errno in TAKEN:
                os.close(descriptor)
                raise _Taken(owner) from None
            os.close(descriptor)
            return None, None
        os.close(descriptor)
    raise _Taken(None)


def _lock_open_file(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to the open file: its last owner may have removed it before it
    was locked.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> int | None:
    """The id of the process that has locked an open file or folder; None if the system does not
    say.
    """
    try:
        information, lines = os.fstat(descriptor), LOCK_TABLE.read_text().splitlines()
    except OSError:
        return None
    place = f"{os.major(information.st_dev):02x}:{os.minor(information.st_dev):02x}:{information.st_ino}"
    found = {int(line.split()[4]) for line in lines if " FLOCK " in line and "->" not in line and place in line.split()}
    return found.pop() if len(found) == 1 and min(found) > 0 else None


def _in_use(folder: str | Path, owner: int | None) -> str:
    who = "another process" if owner is None else f"process {owner}"
    return f"{folder} is in use: {who} is training in it; wait until it ends, or use another folder"
