"""Tokens in a memory-mapped file, so that a text may be larger than the memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import replacing


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
