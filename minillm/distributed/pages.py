"""Memory whose pages can be given back and come again, at the same place.

Every weight of a model is a view of one array, and layers keep such views for backward. An array
that is freed and made again would leave them pointing nowhere. Here the array stays for good, and
what comes and goes is the memory behind it. The operating system backs an array with pages (4 KiB
on most machines) and lets a process give single ones back:

    give_back(place)    the whole pages inside: no memory, and zeros when they are read again
    array[place] = x    a page gets memory when it is written to

The call is madvise(MADV_DONTNEED) on a private anonymous mapping. Linux takes the memory back at
once; macOS takes it when it needs it. Windows has no such call.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

from minillm.errors import UserError


class Pages:
    """array (count,) of a dtype, zeros at first, without memory until it is written to.

    Raises UserError where the operating system cannot take pages back.
    """

    def __init__(self, count: int, dtype):
        if not hasattr(mmap, "MADV_DONTNEED"):
            raise UserError(
                f"{sys.platform} cannot take back single pages of memory, which --zero 3 needs: use --zero 2"
            )
        self._size = max(1, count * np.dtype(dtype).itemsize)
        self._map = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.array = np.frombuffer(self._map, dtype, count)

    def give_back(self, place: slice) -> None:
        """Free the pages that lie inside a slice of the array as a whole: it reads as zeros
        there.
        """
        start, stop = whole_pages(place, self.array.itemsize)
        if start < stop:
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def resident(self) -> int:
        """Bytes of the array that have memory now, as the operating system counts them.

        Raises UserError where it does not say so (mincore of Linux and macOS).
        """
        mincore = getattr(ctypes.CDLL(None), "mincore", None)
        pages = -(-self._size // mmap.PAGESIZE)
        found = np.zeros(pages, np.uint8)
        address = ctypes.c_void_p(self.array.ctypes.data)
        if mincore is None or mincore(address, ctypes.c_size_t(self._size), found.ctypes.data_as(ctypes.c_void_p)):
            raise UserError(f"{sys.platform} does not say which pages have memory")
        return int((found & 1).sum()) * mmap.PAGESIZE


def whole_pages(place: slice, itemsize: int) -> tuple[int, int]:
    """The bytes start to stop of the whole pages inside a slice of elements; none if stop <= start.

    >>> from unittest.mock import patch
    >>> with patch("mmap.PAGESIZE", 4096):
    ...     whole_pages(slice(1000, 5000), 4)
    (4096, 16384)
    """
    start = -(-place.start * itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    return start, place.stop * itemsize // mmap.PAGESIZE * mmap.PAGESIZE
