"""The arrays of a launch as the kernel sees them: copies between guards, at the alignment that a GPU gives."""

from __future__ import annotations

import numpy as np

from minillm.backend import SimulatedArray

GUARD_BYTES = 64 * 1024  # on either side of an array
GUARD_VALUE = 0xA5
ALIGNMENT = 256  # CUDA C++ programming guide: what cudaMalloc returns is aligned to at least 256 bytes


class Buffer:
    """A copy of the memory from address `start` to `end`, at the same distance from its base array's start."""

    def __init__(self, start: int, end: int, base: int):
        self.start, self.end = start, end
        self.size = end - start
        shift = (start - base) % ALIGNMENT
        self.memory = np.full(self.size + 2 * GUARD_BYTES + 2 * ALIGNMENT, GUARD_VALUE, np.uint8)
        first = self.memory.ctypes.data + GUARD_BYTES
        self.offset = GUARD_BYTES + (-first) % ALIGNMENT + shift
        self.address = self.memory.ctypes.data + self.offset

    @property
    def inside(self) -> np.ndarray:
        return self.memory[self.offset : self.offset + self.size]

    def guards_hit(self) -> int | None:
        """The distance in bytes from the array's start of the first guard byte that was written, None if intact."""
        end = self.offset + self.size
        for begin, guard in ((0, self.memory[: self.offset]), (end, self.memory[end:])):
            hits = np.flatnonzero(guard != GUARD_VALUE)
            if hits.size:
                return int(begin + hits[0] - self.offset)
        return None


class PointerTable(SimulatedArray):
    """The addresses of other arrays, as a kernel takes them that works on many: uint64 (N,).

    arrays: those others. At a launch they are copied between guards like arguments, and the table names the copies.
    """

    arrays: list[np.ndarray]

    @classmethod
    def of(cls, arrays: list[np.ndarray]) -> PointerTable:
        table = np.array([array.ctypes.data for array in arrays], np.uint64).view(cls)
        table.arrays = list(arrays)
        return table


def guarded(arrays: list[np.ndarray]) -> list[Buffer]:
    """One buffer for each array; arrays that share memory share their buffer."""
    spans = sorted({(a.ctypes.data, a.ctypes.data + a.nbytes, _base_address(a)) for a in arrays})
    merged = []
    for start, end, base in spans:
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end, base])
    buffers = [Buffer(*span) for span in merged]
    chosen = []
    for array in arrays:
        start = array.ctypes.data
        buffer = next(b for b in buffers if b.start <= start and start + array.nbytes <= b.end)
        chosen.append(buffer)
        within = start - buffer.start
        buffer.inside[within : within + array.nbytes] = _bytes(array)
    return chosen


def copy_back(array: np.ndarray, buffer: Buffer) -> None:
    """Bring what the kernel wrote into the array."""
    within = array.ctypes.data - buffer.start
    _bytes(array)[:] = buffer.inside[within : within + array.nbytes]


def address_of(array: np.ndarray, buffer: Buffer) -> int:
    return buffer.address + array.ctypes.data - buffer.start


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.view(np.ndarray).reshape(-1).view(np.uint8)


def _base_address(array: np.ndarray) -> int:
    """Where the array begins of which this one is a view: a GPU aligns that one."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.ctypes.data
