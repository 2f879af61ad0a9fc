"""The memory that a mapped file takes."""

from __future__ import annotations

import mmap

import numpy as np


def release_pages(array: np.ndarray) -> None:
    """Leave the pages of a mapped file that lie wholly in an array of it, C-contiguous: they are
    read from the file again where they are used again. Nothing may have been written to them.
    Other arrays, and systems that cannot, are left as they are.
    """
    file = array
    while isinstance(file, np.ndarray):
        file = file.base
    if isinstance(file, memoryview):
        file = file.obj
    if not isinstance(file, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED") or not array.flags.c_contiguous:
        return
    begin = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (begin + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        file.madvise(mmap.MADV_DONTNEED, first, last - first)
