"""Arrays that share memory, and cannot be changed one after the other."""

from __future__ import annotations

import numpy as np


def memory_conflict(arrays: dict[str, np.ndarray]) -> str:
    """What is wrong with arrays, by name, that are to be changed one after the other: two of them
    share memory, or the elements of one do. "" if nothing is; arrays on a GPU are not looked at.
    """
    on_host = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and array.size}
    for name, array in on_host.items():
        if any(stride == 0 and length > 1 for stride, length in zip(array.strides, array.shape)):
            return f"the elements of {name} share memory, as after broadcast_to: give it a copy"
    ends = sorted((*_byte_bounds(array), name) for name, array in on_host.items())
    for index, (_, end, name) in enumerate(ends):
        for start, _, other in ends[index + 1 :]:
            if start >= end:
                break
            if np.shares_memory(on_host[name], on_host[other]):
                return f"{name} and {other} share memory: make one Parameter of them, and use it in both places"
    return ""


def _byte_bounds(array: np.ndarray) -> tuple[int, int]:
    """The address of the first byte of an array, and that behind its last one."""
    start = array.__array_interface__["data"][0]
    reaches = [stride * (length - 1) for stride, length in zip(array.strides, array.shape)]
    return start + sum(min(0, r) for r in reaches), start + sum(max(0, r) for r in reaches) + array.itemsize
