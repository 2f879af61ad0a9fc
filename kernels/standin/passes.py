"""What CuPy's own kernels work on, from their names and the bytes of their arguments.

CuPy hands an array to its kernels as a struct {address, size, shape[ndim], strides[ndim]} and the
loop as {size, shape[ndim], index[ndim]}, all of eight bytes (cupy/_core/include/cupy/carray.cuh:
CArray, CIndexer). The name of a ufunc's kernel has the types of its arrays in their order,
cupy_add__float32_float32_float32, and of its scalars without a width, cupy_add__float32_float.
"""

from __future__ import annotations

import math
import re
import struct

_ITEMSIZES = {"bool": 1, "bfloat16": 2}
_WORD = re.compile(r"(bool|bfloat|complex|float|uint|int)(\d*)$")


def is_cupys_own(name: str) -> bool:
    """Whether a kernel is one that CuPy brings: a ufunc, a copy, a reduction."""
    return name.startswith("cupy_")


def elements(arguments: tuple[bytes, ...]) -> int | None:
    """How often a kernel's loop runs: the size of its first loop (of a reduction, what goes in).
    None without a loop.
    """
    return next((struct.unpack_from("<q", argument)[0] for argument in arguments if _is_loop(argument)), None)


def bytes_moved(name: str, arguments: tuple[bytes, ...]) -> int | None:
    """Bytes of the arrays of a kernel, each number once: what is broadcast counts once.

    None for an unknown type.
    """
    sizes = itemsizes(name)
    arrays = [_numbers(argument) for argument in arguments if _is_array(argument)]
    if sizes is None or len(sizes) != len(arrays):
        return None
    return sum(size * count for size, count in zip(sizes, arrays))


def itemsizes(name: str) -> list[int] | None:
    """The widths in bytes of a kernel's arrays, as its name has them. None where it has none."""
    _, separator, words = name.partition("__")
    if not separator:
        return None
    found = []
    for word in words.split("_"):
        match = _WORD.match(word)
        if match is None:
            return None
        if word in _ITEMSIZES or match[2]:
            found.append(_ITEMSIZES.get(word) or int(match[2]) // 8)
    return found


def _is_array(argument: bytes) -> bool:
    return len(argument) >= 16 and len(argument) % 16 == 0


def _is_loop(argument: bytes) -> bool:
    return len(argument) >= 24 and len(argument) % 16 == 8


def _numbers(array: bytes) -> int:
    """How many numbers an array has in memory: along an axis of step 0 it has one."""
    ndim = len(array) // 16 - 1
    values = struct.unpack(f"<{len(array) // 8}q", array)
    shape, strides = values[2 : 2 + ndim], values[2 + ndim :]
    return math.prod(size if stride else 1 for size, stride in zip(shape, strides)) if ndim else 1
