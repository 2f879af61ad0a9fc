"""The types of numbers in a GGUF file: the size of their blocks, and their numbers as float32.

What minillm has formulas for (files/number_formats.py) is read without the package `gguf`: its
import is a good part of the time in which such a file is open. Any other type is left to it. The
numbers and sizes of types are those of ggml.h; a test compares them with the package's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.errors import MissingExtra, UserError
from minillm.files.number_formats import FORMATS, NumberFormat

PLAIN = {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}
OF_FORMATS = {1: "F16", 2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 30: "BF16"}  # GGUF's number -> name in FORMATS


class TensorType(NamedTuple):
    """A type: GGUF's number and name of it, and how many numbers and bytes a block has."""

    number: int
    name: str
    block: int
    block_bytes: int


OWN_TYPES = {
    0: TensorType(0, "F32", 1, 4),
    **{n: TensorType(n, name, FORMATS[name].group, FORMATS[name].group_bytes) for n, name in OF_FORMATS.items()},
}


def tensor_type(number: int, path: Path) -> TensorType:
    """The type of a number that the file at `path` has.

    Raises UserError for one that the package `gguf` does not know either, MissingExtra for one that
    needs it where it is not installed.
    """
    if number in OWN_TYPES:
        return OWN_TYPES[number]
    try:
        import gguf
    except ImportError:
        raise MissingExtra(f"opening {path.name}", "the package gguf", "gguf") from None
    try:
        kind = gguf.GGMLQuantizationType(number)
        return TensorType(number, kind.name, *gguf.GGML_QUANT_SIZES[kind])
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged, or newer than the package gguf: {error}") from None


def expanded(data: np.ndarray, kind: TensorType) -> np.ndarray:
    """Numbers as they are stored -> float32.

    data: (..., columns) of a plain type, (..., bytes of a row) uint8 of another. Raises
    NotImplementedError for a type that the package `gguf` does not expand.
    """
    if kind.name in ("F32", "F16"):
        return data.astype(np.float32, copy=False)
    if kind.number not in OWN_TYPES:
        import gguf

        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType(kind.number))
    rows = data.reshape(-1, data.shape[-1])
    out = np.empty((len(rows), rows.shape[1] // kind.block_bytes * kind.block), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are for the reader to refuse
        FORMATS[kind.name].expand(rows, out)
    return out


def format_of(kind: TensorType) -> NumberFormat:
    """The format of a type: ours, or that of the package `gguf`."""

    def expand(stored, out) -> None:
        out[...] = expanded(np.ascontiguousarray(stored), kind)

    return FORMATS.get(kind.name) or NumberFormat(kind.name, kind.block, kind.block_bytes, expand)
