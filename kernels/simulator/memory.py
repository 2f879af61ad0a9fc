"""The arrays of a launch as the kernel sees them: copies between guards, at the alignment that a
GPU gives.
"""

from __future__ import annotations

import ctypes

import numpy as np

from minillm.backend.arrays import SimulatedArray

GUARD_VALUE = b"\xa5"
SLACK = 64 * 1024  # check mode: bytes on either side that may be touched, so that one fault does not hide the next
ALIGNMENT = 256  # CUDA C++ programming guide: what cudaMalloc returns is aligned to at least 256 bytes


class Buffer:
    """A copy of the memory from address `start` to `end`, at the same distance from its base
    array's start.

    It lies at the end of pages of its own, between addresses that fault (arena.h): `gap` bytes on
    either side. What is left on the pages is filled with a known value; there are at least `slack`
    bytes of it before and behind the copy.
    """

    def __init__(self, start: int, end: int, base: int, runtime, slack: int = 0):
        self.start, self.end = start, end
        self.size = end - start
        self.runtime = runtime
        size, gap = ctypes.c_uint64(), ctypes.c_uint64()
        self.pages = _take(runtime)(self.size + ALIGNMENT + 2 * slack, ctypes.byref(size), ctypes.byref(gap))
        if not self.pages:
            raise MemoryError(f"no room for a copy of {self.size:,} bytes")
        self.page_bytes, self.gap, self.slack = size.value, gap.value, slack
        shift = (start - base) % ALIGNMENT
        self.before = (self.page_bytes - self.size - shift - slack) // ALIGNMENT * ALIGNMENT + shift
        self.after = self.page_bytes - self.before - self.size
        self.address = self.pages + self.before
        ctypes.memset(self.pages, GUARD_VALUE[0], self.before)
        ctypes.memset(self.address + self.size, GUARD_VALUE[0], self.after)

    def write(self, original: int, array: np.ndarray) -> None:
        """Copy an array to where the memory at address `original` is here."""
        ctypes.memmove(self.address + original - self.start, array.ctypes.data, array.nbytes)

    def read(self, original: int, array: np.ndarray) -> None:
        """Copy from there into an array."""
        ctypes.memmove(array.ctypes.data, self.address + original - self.start, array.nbytes)

    def guards_hit(self) -> int | None:
        """The distance in bytes from the array's start of the first guard byte that was written,
        None if intact.
        """
        for begin, size in ((-self.before, self.before), (self.size, self.after)):
            guard = ctypes.string_at(self.address + begin, size)
            if guard != GUARD_VALUE * size:
                return begin + next(i for i, byte in enumerate(guard) if byte != GUARD_VALUE[0])
        return None

    def release(self) -> None:
        self.runtime.minillm_sim_give_pages(
            ctypes.c_void_p(self.pages), ctypes.c_uint64(self.page_bytes), ctypes.c_uint64(self.gap)
        )


class PointerTable(SimulatedArray):
    """The addresses of other arrays, as a kernel takes them that works on many: uint64 (N,).

    arrays: those others. At a launch they are copied between guards like arguments, and the table
    names the copies.
    """

    arrays: list[np.ndarray]

    @classmethod
    def of(cls, arrays: list[np.ndarray]) -> PointerTable:
        table = np.array([array.ctypes.data for array in arrays], np.uint64).view(cls)
        table.arrays = list(arrays)
        return table


class Unwritten(SimulatedArray):
    """An array as cudaMalloc gives it: check mode reports a read of what its first launch has not
    written.
    """

    is_unwritten = False

    def __array_finalize__(self, other):
        self.is_unwritten = False  # of a view, and of results


def unwritten(shape, dtype) -> Unwritten:
    """A new array in which nothing was written yet; its numbers are NaN, or -1."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8).fill(255)
    found = array.view(Unwritten)
    found.is_unwritten = True
    return found


def guarded(arrays: list[np.ndarray], runtime, slack: int = 0) -> list[Buffer]:
    """One buffer for each array; arrays that share memory share their buffer. The caller releases
    them.

    runtime: the simulator's runtime library. slack: of each buffer.
    """
    spans = sorted({(a.ctypes.data, a.ctypes.data + a.nbytes, _base_address(a)) for a in arrays})
    merged = []
    for start, end, base in spans:
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end, base])
    buffers = [Buffer(*span, runtime, slack) for span in merged]
    chosen = []
    for array in arrays:
        start = array.ctypes.data
        buffer = next(b for b in buffers if b.start <= start and start + array.nbytes <= b.end)
        chosen.append(buffer)
        buffer.write(start, array)
    return chosen


def copy_back(array: np.ndarray, buffer: Buffer) -> None:
    """Bring what the kernel wrote into the array."""
    buffer.read(array.ctypes.data, array)


def address_of(array: np.ndarray, buffer: Buffer) -> int:
    return buffer.address + array.ctypes.data - buffer.start


def _take(runtime):
    function = runtime.minillm_sim_take_pages
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
    return function


def _base_address(array: np.ndarray) -> int:
    """Where the array begins of which this one is a view: a GPU aligns that one."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.ctypes.data
