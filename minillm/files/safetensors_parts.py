"""A safetensors file of which several processes each write, and read, a part.

Where a number lies in the file depends only on the names, shapes and types of the tensors. So a
process that knows these can write any part of it, and the bytes are those that one process writes:
the layout is that of the library safetensors, larger types first, and names in order.

    plan = Plan({"wte.weight": Spec((65, 128), "F32"), ...}, {"step": "250"})
    plan.create(path)                            one process: the header, and room for all numbers
    plan.write(path, [Part("wte.weight", 100, array), ...])       each process: some of the numbers

Numbers go in blocks of at most BLOCK bytes: an array that lies in the order of the file is written
from its own memory, and of any other (in Fortran order, a view with gaps, on a device) one block at
a time is copied.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minillm.backend.arrays import contiguous, device_of, to_device, to_host
from minillm.files.atomic import naming
from minillm.files.safetensors_file import ITEM_BYTES

BLOCK = 1 << 24  # bytes
# The library puts tensors in this order of types.
ORDER = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
NUMPY = {"F": "float", "I": "int", "U": "uint"}
TYPES = {np.dtype(f"{NUMPY[name[0]]}{name[1:]}"): name for name in ORDER if name[0] in NUMPY} | {np.dtype(bool): "BOOL"}
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True)
class Spec:
    """The shape of a tensor, and its type as the file calls it: "F32"."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, array) -> Spec:
        """That of an array. Raises TypeError for a type that the format does not have."""
        if array.dtype not in TYPES:
            raise TypeError(f"an array of {array.dtype} cannot be saved: the types are {', '.join(map(str, TYPES))}")
        return cls(tuple(array.shape), TYPES[array.dtype])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __str__(self):
        return f"{self.dtype}{self.shape}"


@dataclass(frozen=True)
class Part:
    """Elements of a tensor: in C order, from the one numbered `start` on, those of `array`, which
    may have any shape and lie in memory in any order.
    """

    name: str
    start: int
    array: object


class Plan:
    """Where the numbers of tensors lie in a file. header: its first bytes; size: of the file."""

    def __init__(self, specs: Mapping[str, Spec], metadata: Mapping[str, str]):
        self.specs = dict(specs)
        header, position, self._starts = {"__metadata__": dict(metadata)}, 0, {}
        for name, spec in sorted(self.specs.items(), key=lambda item: (ORDER.index(item[1].dtype), item[0])):
            self._starts[name] = position
            position += spec.size * ITEM_BYTES[spec.dtype]
            offsets = [self._starts[name], position]
            header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.size = len(self.header) + position

    def create(self, path: Path) -> None:
        """Make the file: its header, and room for the numbers, so that a full disk is noticed
        before any is written.
        """
        with naming(path), open(path, "wb") as file:
            file.write(self.header)
            file.flush()
            _reserve(file.fileno(), self.size)

    def write(self, path: Path, parts: Iterable[Part]) -> None:
        """Write these parts into the file that `create` has made, and wait until they are on the
        disk.

        The file is opened for writing alone: then NFS sends the bytes that were written, and not
        those beside them in the same page, which another machine may be writing. When it is closed
        here, they can be seen from there.
        """
        with naming(path), _opened(path, os.O_WRONLY) as file:
            for part in parts:
                position = self.position(part)
                for block in blocks(part.array):
                    _write_block(file, contiguous(to_host(block)), position)
                    position += block.nbytes
            os.fsync(file)

    def position(self, part: Part) -> int:
        """The byte of the file at which a part begins.

        Raises ValueError for a part that is of another type than its tensor, or beyond its end.
        """
        spec, array = self.specs[part.name], part.array
        if TYPES.get(array.dtype) != spec.dtype or not 0 <= part.start <= spec.size - array.size:
            raise ValueError(
                f"elements {part.start} to {part.start + array.size} of {array.dtype} are no part of {part.name}, {spec}"
            )
        return len(self.header) + self._starts[part.name] + part.start * ITEM_BYTES[spec.dtype]


def read_parts(path: Path, places: Iterable[tuple[int, object]]) -> None:
    """For each (position, array): fill the array, of any memory layout and device, with the numbers
    of the file from that byte on.

    Raises OSError where the file ends before.
    """
    with naming(path), open(path, "rb", buffering=0) as file:
        for position, array in places:
            file.seek(position)
            for block in blocks(array):
                _read_block(file, block)


def blocks(array) -> Iterator:
    """Views of an array whose elements follow each other in C order: each of at most BLOCK bytes,
    or a single number.
    """
    if array.nbytes <= BLOCK or array.ndim == 0:
        yield array
    elif array.flags.c_contiguous:
        flat, step = array.reshape(-1), max(1, BLOCK // array.itemsize)
        for start in range(0, flat.size, step):
            yield flat[start : start + step]
    else:
        rows = BLOCK // array[0].nbytes
        for start in range(0, len(array), max(1, rows)):
            yield from blocks(array[start : start + rows] if rows else array[start, ...])


def _reserve(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except AttributeError:  # macOS and Windows have no such call
        os.ftruncate(file, size)
    except OSError as error:  # a file system that cannot
        if error.errno not in CANNOT_RESERVE:
            raise
        os.ftruncate(file, size)


@contextmanager
def _opened(path: Path, mode: int) -> Iterator[int]:
    file = os.open(path, mode | getattr(os, "O_BINARY", 0))
    try:
        yield file
    except BaseException:
        os.close(file)
        raise
    else:
        os.close(file)  # NFS tells here what it could not write


def _write_block(file: int, block: np.ndarray, position: int) -> None:
    os.lseek(file, position, os.SEEK_SET)
    rest = memoryview(block).cast("B") if block.size else b""
    while len(rest):
        rest = rest[os.write(file, rest) :]


def _read_block(file, block) -> None:
    in_place = device_of(block) == "cpu" and block.flags.c_contiguous
    target = block if in_place else np.empty(block.shape, block.dtype)
    rest = memoryview(target).cast("B") if target.size else b""
    while len(rest):
        count = file.readinto(rest)
        if not count:
            raise OSError(errno.EIO, "the file ends before its last tensor")
        rest = rest[count:]
    if not in_place:
        block[...] = to_device(target, device_of(block))
