"""How the matrices (T, D) of each head lie in memory, for kernels that take steps: the host's side
of layout.cuh.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minillm.backend.arrays import array_module, device_of
from minillm.kernels.launch import empty

ALIGNMENT = 16  # bytes: kernels load four floats, or eight numbers of 16 bits, at once
STEPS = np.dtype([("batch", "i8"), ("head", "i8"), ("token", "i4")], align=True)  # the struct Steps


def heads_in_tokens(shape, like):
    """A new array (B, H, T, D) in whose memory the heads of a token lie side by side, as in the
    rows of the products around attention. Its dtype and its device are those of `like`.
    """
    B, H, T, D = shape
    return empty((B, T, H, D), like, like.dtype).transpose(0, 2, 1, 3)


def steps_of(array) -> np.void:
    """The struct Steps of an array (B, H, T, D)."""
    return _steps(*place_of(array))


def place_of(array) -> tuple:
    """What the steps of an array depend on, as arguments of `steps`."""
    return array.shape, array.strides, array.itemsize


def steps(shape, strides, itemsize) -> tuple[int, int, int]:
    """Numbers from a row of the batch, a head and a token to the next; 0 where there is one alone,
    which NumPy and CuPy give any stride.
    """
    return tuple(stride // itemsize if size > 1 else 0 for size, stride in zip(shape[:3], strides))


@lru_cache(maxsize=256)  # a step of training asks for the same few
def _steps(*place) -> np.void:
    return np.array(steps(*place), STEPS)[()]


def memory(array):
    """What a launch gets in the place of an array with steps. CuPy passes its address on.

    The simulator takes the memory from its first number to its last one, whatever lies between.
    """
    if device_of(array) == "cuda" or array.flags.c_contiguous:
        return array
    last = sum((size - 1) * stride for size, stride in zip(array.shape, array.strides))
    return as_strided(array, (last // array.itemsize + 1,), (array.itemsize,), subok=True)


def check_rows(kernel: str, name: str, array, alignment: int = ALIGNMENT) -> None:
    """Raises ValueError, naming the argument, unless the D numbers of every token lie side by side
    and begin at a multiple of `alignment` bytes.
    """
    if not array.size:
        return
    remedy = f"pass {array_module(array).__name__}.ascontiguousarray({name})"
    where = f"(shape {array.shape}, strides {array.strides})"
    if array.shape[3] > 1 and array.strides[3] != array.itemsize:
        raise ValueError(f"{kernel}: the last axis of {name} is not contiguous {where}: {remedy}")
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    if address % alignment:
        raise ValueError(f"{kernel}: {name} does not begin at a multiple of {alignment} bytes: pass {name}.copy()")
    free = [step for size, step in zip(array.shape[:3], array.strides) if size > 1]
    if not array.flags.c_contiguous and any(step < 0 or step % alignment for step in free):
        raise ValueError(f"{kernel}: rows of {name} do not begin at multiples of {alignment} bytes {where}: {remedy}")
