"""In the place of cupy.cuda.thrust: NumPy's sorting on the same memory. The arguments are CuPy's.

Sorting is done even where nothing else is computed: what is to be sorted may be indices, and those have to stay in range.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np

from minillm.kernels.standin import recording

available = True


def get_build_version() -> int:
    return 0


def sort(dtype, data: int, keys: int, shape) -> None:
    """Sorts along the last axis, in place."""
    recording.note_sort("sort", shape)
    memory(data, dtype, shape).sort(axis=-1, kind="stable")


def argsort(dtype, indices: int, data: int, keys: int, shape) -> None:
    """The order along the last axis, int64; the data are sorted, too."""
    recording.note_sort("argsort", shape)
    values = memory(data, dtype, shape)
    order = np.argsort(values, axis=-1, kind="stable")
    memory(indices, np.int64, shape)[...] = order
    values[...] = np.take_along_axis(values, order, axis=-1)


def lexsort(dtype, indices: int, keys: int, k: int, n: int) -> None:
    """The order of n columns of k keys, the last of which counts first."""
    recording.note_sort("lexsort", (k, n))
    memory(indices, np.int64, (n,))[...] = np.lexsort(memory(keys, dtype, (k, n)))


def memory(address: int, dtype, shape) -> np.ndarray:
    """The array at an address."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(tuple(shape))
