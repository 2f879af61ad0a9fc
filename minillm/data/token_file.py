"""Tokens in a memory-mapped file, so that a text may be larger than the memory."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import naming, replacing

BLOCK = 1 << 20  # ids that are copied at a time


def write_tokens(path: str | Path, ids) -> None:
    """Write ids (N,) as a .npy file, uint16 where they fit and uint32 otherwise.

    Raises ValueError for other numbers.
    """
    ids = np.asarray(ids)
    largest = ids.max(initial=0)
    if ids.ndim != 1 or ids.min(initial=0) < 0 or largest >= 2**32:
        raise ValueError(f"{path}: ids must be one row of whole numbers from 0 to 2**32 - 1")
    dtype = np.uint16 if largest < 2**16 else np.uint32
    with replacing(path) as temporary, open(temporary, "wb") as file:
        # not the file itself: NumPy writes to files in a way that loses what the system says of a
        # full disk
        np.save(SimpleNamespace(write=file.write), ids.astype(dtype, copy=False), allow_pickle=False)


def write_token_parts(path: str | Path, parts: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write ids that come in parts (n,), all of them below vocab_size: the file that `write_tokens`
    writes of them together. Returns how many there are.
    """
    count, largest, dtype = 0, 0, dtype_for(vocab_size)
    with replacing(path) as temporary, open(temporary, "w+b", buffering=0) as file, naming(path):
        _write_all(file, _header(0, dtype))  # of the same length, whatever the number of ids
        for ids in parts:
            count, largest = count + len(ids), max(largest, int(ids.max(initial=0)))
            _write_all(file, ids.astype(dtype, copy=False).tobytes())
        if dtype != dtype_for(largest + 1):
            _make_narrow(file, count)
        file.seek(0)
        _write_all(file, _header(count, dtype_for(largest + 1)))
    return count


def dtype_for(vocab_size: int) -> np.dtype:
    """The type of ids below vocab_size."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _header(count: int, dtype: np.dtype) -> bytes:
    """How a .npy file of `count` ids begins."""
    header = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _make_narrow(file: BinaryIO, count: int) -> None:
    """Ids of four bytes become ids of two, where they are: what is written was read before."""
    begin = len(_header(0, np.dtype(np.uint16)))
    for start in range(0, count, BLOCK):
        file.seek(begin + 4 * start)
        ids = np.frombuffer(file.read(4 * min(BLOCK, count - start)), np.uint32)
        file.seek(begin + 2 * start)
        _write_all(file, ids.astype(np.uint16).tobytes())
    file.truncate(begin + 2 * count)


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def open_tokens(path: str | Path, vocab_size: int) -> np.ndarray:
    """The ids (N,) of a file, mapped into memory, read-only.

    Raises UserError if the file is missing or broken, or holds an id outside the vocabulary.
    """
    try:
        tokens = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the run folder is incomplete") from None
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a complete token file: {error}") from None
    if tokens.ndim != 1 or tokens.dtype.kind != "u":
        raise UserError(f"{path} is not a token file: it must hold one row of unsigned whole numbers")
    if tokens.size and tokens.max() >= vocab_size:
        position = int(np.argmax(tokens >= vocab_size))
        raise UserError(f"{path}: token {position} is {tokens[position]}, outside the vocabulary of {vocab_size}")
    return tokens
