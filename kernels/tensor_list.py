"""The tables that kernels with many tensors read: addresses, sizes, and which block works on which tensor."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

from minillm.backend import SimulatedArray, array_module
from minillm.kernels.launch import blocks_for, place_of

PIECE = 4096  # elements that one block works on, as in tensor_list.cuh


def addresses(*lists):
    """Equally long lists of arrays  ->  the addresses of the arrays, (lists, tensors) uint64, on their device.

    In the simulator these are addresses of the arrays themselves, and not of guarded copies: its check mode does not
    watch them.
    """
    like = lists[0][0]
    pointers = [[_address(array) for array in arrays] for arrays in lists]
    if isinstance(like, SimulatedArray):
        return np.array(pointers, np.uint64).view(SimulatedArray)
    with like.device:
        return array_module(like).asarray(np.array(pointers, np.uint64))


def layout(arrays):
    """Sizes and first blocks (2, tensors) int64 on the device of the arrays, and the number of blocks."""
    sizes = [array.size for array in arrays]
    blocks = [blocks_for(size, PIECE) for size in sizes]
    first_blocks = np.cumsum([0, *blocks]).tolist()
    return on_device(place_of(arrays[0]), (tuple(sizes), tuple(first_blocks[:-1])), "int64"), first_blocks[-1]


@lru_cache(maxsize=32)
def on_device(place: str, numbers: tuple, dtype: str):
    """A table of numbers that stays on a device, because every step needs the same one."""
    host = np.array(numbers, dtype)
    if place == "cudasim":
        return host.view(SimulatedArray)
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(int(place.removeprefix("cuda:"))):
        return cupy.asarray(host)


def _address(array) -> int:
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
