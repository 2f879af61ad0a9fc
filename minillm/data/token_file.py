"""Tokens in a file that is mapped into memory: a text larger than the memory can be trained on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files import write_atomically


def write_tokens(path: str | Path, ids) -> None:
    """Write ids (N,) as a .npy file, uint16 where they fit and uint32 otherwise."""
    ids = np.asarray(ids)
    dtype = np.uint16 if ids.size == 0 or ids.max() < 2**16 else np.uint32
    buffer = io.BytesIO()
    np.save(buffer, ids.astype(dtype), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def open_tokens(path: str | Path, vocab_size: int) -> np.ndarray:
    """The ids (N,) of a file, mapped into memory, read-only.

    Raises UserError if the file is missing or broken, or holds an id outside the vocabulary.
    """
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the run folder is incomplete") from None
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a complete token file: {error}") from None
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind != "u":
        raise UserError(f"{path} is not a token file: it must hold one row of unsigned whole numbers")
    if tokens.size and tokens.max() >= vocab_size:
        position = int(np.argmax(tokens >= vocab_size))
        raise UserError(f"{path}: token {position} is {tokens[position]}, outside the vocabulary of {vocab_size}")
    return tokens
