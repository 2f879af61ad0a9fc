"""Tensors in safetensors files that are not trusted.

A file is 8 bytes N (little endian), N bytes of JSON that name each tensor with its type, shape and
place, and the numbers:

    {"wte.weight": {"dtype": "F32", "shape": [65, 128], "data_offsets": [0, 33280]}, ...}

Everything in the header is checked against the size of the file before any tensor is touched:
shapes and offsets decide how much memory is used, and the file may be malicious.
Then a tensor stays in its file, mapped into memory: the system reads a page when a computation
first needs it. Only what is stored in another type than it is used in is copied.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files.kinds import misnamed

LARGEST_HEADER = 100_000_000  # bytes, as in the reference implementation
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
READABLE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # type in the file -> how NumPy sees it


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: where it is, and how to read it."""

    path: Path
    name: str
    dtype: str  # as the file calls it: "F32"
    shape: tuple[int, ...]
    _buffer: mmap.mmap
    position: int  # the byte of the file at which its numbers begin

    def read(self, dtype) -> np.ndarray:
        """The tensor as float32 or float64.

        If that is what the file holds, a private view of the file (what is written to it never
        reaches the file), else a copy. Raises UserError for a type that is no float of 16 to 64
        bits.
        """
        if self.dtype not in READABLE:
            raise UserError(f"{self.path}: tensor {self.name} is stored as {self.dtype}; use {', '.join(READABLE)}")
        count = math.prod(self.shape)
        stored = np.frombuffer(self._buffer, READABLE[self.dtype], count, self.position).reshape(self.shape)
        if self.dtype == "BF16":  # the upper half of a float32
            stored = np.left_shift(stored, 16, dtype=np.uint32).view(np.float32)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is reported as that
            tensor = np.require(stored.astype(dtype, copy=False), requirements="A")
        where = first_not_finite(tensor)
        if where is not None:
            raise UserError(f"{self.path}: tensor {self.name} is not finite: {tensor[where]} at {where}")
        return tensor

    def rows_of_bytes(self) -> np.ndarray:
        """A matrix as the bytes of its rows, uint8 (R, bytes of a row): a view of the file."""
        count = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        return np.frombuffer(self._buffer, np.uint8, count, self.position).reshape(self.shape[0], -1)

    def equals(self, other: StoredTensor) -> bool:
        """Whether both hold the same numbers."""
        if self.shape != other.shape:
            return False
        if self.dtype != other.dtype:
            return np.array_equal(self.read(np.float64), other.read(np.float64))
        count = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        mine, theirs = (np.frombuffer(t._buffer, np.uint8, count, t.position) for t in (self, other))
        return np.array_equal(mine, theirs)


def read_header(path: str | Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name.

    Raises UserError if anything in its header cannot be true.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise _broken(path, f"its header should be {length} bytes long, the file has {size}")
            if length > LARGEST_HEADER:
                raise _broken(path, f"its header of {length} bytes is larger than any model needs")
            header = _parse(file.read(length), path)
            # a private map: writing to it copies the page and leaves the file alone
            buffer = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is missing: the model folder is incomplete") from None
    tensors = {}
    start_of_data = 8 + length
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _checked_entry(name, entry, size - start_of_data, path)
        spans.append((begin, end, name))
        tensors[name] = StoredTensor(path, name, dtype, shape, buffer, start_of_data + begin)
    _check_layout(sorted(spans), size - start_of_data, path)
    return tensors


def first_not_finite(tensor: np.ndarray) -> tuple[int, ...] | None:
    """The index of the first NaN or infinity, or None.

    A sum tells quickly that there is none: both spread.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(tensor.sum()):
            return None
    finite = np.isfinite(tensor)
    return None if finite.all() else tuple(int(i) for i in np.unravel_index(np.argmin(finite), finite.shape))


def _parse(text: bytes, path: Path) -> dict:
    def unique(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _broken(path, "its header names something twice")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of thousands of digits
        raise _broken(path, f"its header is not valid JSON ({error})") from None
    if not isinstance(header, dict):
        raise _broken(path, "its header is no JSON object")
    return header


def _checked_entry(name: str, entry, data_size: int, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of a header entry, if they fit each other and the file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"the entry of tensor {name!r} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _broken(path, f"tensor {name!r} has the unknown type {dtype!r}")
    if not _are_sizes(shape) or len(shape) > 8 or not _are_sizes(offsets) or len(offsets) != 2:
        raise _broken(path, f"tensor {name!r} has the shape {shape!r:.99} at {offsets!r:.99}")
    begin, end = offsets
    if begin > end or end > data_size:
        raise _broken(path, f"tensor {name!r} is at {begin} to {end}, outside the {data_size} bytes of data")
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise _broken(
            path, f"tensor {name!r} of shape {shape!r:.99} and type {dtype} does not fill {end - begin} bytes"
        )
    return dtype, tuple(shape), begin, end


def _are_sizes(values) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _check_layout(spans, data_size: int, path: Path) -> None:
    """Tensors come one after the other: none overlaps another, and no byte belongs to none."""
    reached, last = 0, None
    for begin, end, name in spans:
        if begin < reached:
            raise _broken(path, f"tensors {last!r} and {name!r} overlap")
        if begin > reached:
            raise _broken(path, f"{begin - reached} bytes before tensor {name!r} belong to no tensor")
        reached, last = end, name
    if reached != data_size:
        raise _broken(path, f"{data_size - reached} bytes at its end belong to no tensor")


def _broken(path: Path, why: str) -> UserError:
    if kind := misnamed(path):
        return UserError(f"{path} is not a complete safetensors file: it is {kind}")
    return UserError(f"{path} is not a complete safetensors file: {why}; fetch or copy it again")
