"""The tables that kernels with many tensors read: addresses, sizes, and which block works on which
tensor.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

from minillm.backend.arrays import SimulatedArray, array_module
from minillm.backend.precision import dtype_name
from minillm.kernels.launch import blocks_for, check_array, device_id

PIECE = 4096  # elements that one block works on
CONSTANTS = {"PIECE": PIECE}  # of tensor_list.cuh


def addresses(*lists):
    """Lists of arrays  ->  for each list the addresses of its arrays, (tensors,) uint64, on their
    device.
    """
    like = lists[0][0]
    if isinstance(like, SimulatedArray):
        from minillm.kernels.simulator import PointerTable

        return [PointerTable.of(arrays) for arrays in lists]
    pointers = np.array([array.data.ptr for arrays in lists for array in arrays], np.uint64)
    with like.device:
        table = array_module(like).asarray(pointers)  # one transfer
    ends = np.cumsum([len(arrays) for arrays in lists]).tolist()
    return [table[end - len(arrays) : end] for end, arrays in zip(ends, lists)]


def check_list(kernel: str, name: str, arrays, *, like, shapes=None, because: str = "", dtype="float32") -> None:
    """`check_array` for each array of the list `name`.

    like: an array on whose device they have to be. shapes: the only ones possible. because: the
    reason, "" or a name with what the other list has: "values[{index}] is {shape}". A step checks
    hundreds of arrays: words are put together only for one that does not fit.
    """
    place = device_id(like)
    for index, array in enumerate(arrays):
        shape = shapes[index] if shapes else None
        if not _fits(array, place, shape, dtype):
            reason = because.format(index=index, shape=shape)
            check_array(kernel, f"{name}[{index}]", array, like=like, shape=shape, dtype=dtype, because=reason)


def _fits(array, place: str, shape, dtype: str) -> bool:
    """Whether `check_array` has nothing to say, without saying what."""
    found, flags = getattr(array, "dtype", None), getattr(array, "flags", None)
    return (
        found is not None
        and dtype_name(found) == dtype
        and (shape is None or array.shape == shape)
        and flags is not None
        and flags.c_contiguous
        and device_id(array) == place != "cpu"
    )


def layout(arrays):
    """Sizes and first blocks (2, tensors) int64 on the device of the arrays, and the number of
    blocks.
    """
    sizes = [array.size for array in arrays]
    blocks = [blocks_for(size, PIECE) for size in sizes]
    first_blocks = np.cumsum([0, *blocks]).tolist()
    return on_device(device_id(arrays[0]), (tuple(sizes), tuple(first_blocks[:-1])), "int64"), first_blocks[-1]


@lru_cache(maxsize=32)
def on_device(place: str, numbers: tuple | float, dtype: str):
    """A table of numbers, or one, that stays on a device, because every step needs the same."""
    host = np.array(numbers, dtype)
    if place == "cudasim":
        return host.view(SimulatedArray)
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(int(place.removeprefix("cuda:"))):
        return cupy.asarray(host)
