"""NumPy's view of the device's memory: arrays, matrices by columns and numbers at an address."""

from __future__ import annotations

import ctypes
import math
from functools import cache

import numpy as np

from minillm.kernels.standin import recording


def array(address: int, dtype, shape) -> np.ndarray:
    """The contiguous array at an address."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.zeros(tuple(shape), dtype)
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(tuple(shape))


def vector(address: int, dtype, size: int, step: int) -> np.ndarray:
    """A vector of BLAS: every step-th number from an address on, backwards for a negative step."""
    if size <= 0:
        return np.zeros(0, dtype)
    flat = array(address, dtype, ((size - 1) * abs(step) + 1,))
    found = flat[:: abs(step)] if step else np.broadcast_to(flat[:1], (size,))
    return found[::-1] if step < 0 else found


def matrix(address: int, dtype: np.dtype, rows: int, columns: int, step: int) -> np.ndarray:
    """A matrix (rows, columns) by columns, as its transpose (columns, rows) in the memory where it
    lies.

    step: numbers from one column to the next.
    """
    if rows <= 0 or columns <= 0:
        return np.zeros((max(columns, 0), max(rows, 0)), dtype)
    flat = array(address, dtype, ((columns - 1) * step + rows,))
    return np.lib.stride_tricks.as_strided(flat, (columns, rows), (step * dtype.itemsize, dtype.itemsize))


def pointer_at(address: int, index: int) -> int:
    """Number `index` of a list of addresses in memory."""
    return ctypes.c_uint64.from_address(address + 8 * index).value


def number(slot: bytes, dtype: np.dtype, on_device: bool):
    """A number that was passed by its address: its bytes, or its address on the device."""
    if on_device:
        return array(int.from_bytes(slot[:8], "little"), dtype, (1,))[0]
    return np.frombuffer(slot, dtype, 1)[0]


@cache
def cuda_dtype(code: int) -> np.dtype:
    """The dtype of one of CUDA's codes (library_types.h).

    Raises NotImplementedError for one that NumPy does not have.
    """
    from minillm.backend.precision import bfloat16

    name = recording.CUDA_TYPES.get(code)
    if name is None:
        raise NotImplementedError(f"numbers of CUDA's type {code} (library_types.h) are not there")
    return bfloat16() if name == "bfloat16" else np.dtype(name)
