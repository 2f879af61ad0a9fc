"""How far the arrays of a CuPy program go.

Three places know it, the first that does counts: the arrays that cupy.RawKernel was called with,
what CuPy's memory pool was asked for, the pages of the process.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

from minillm.kernels.simulator.source import kernels, split_list
from minillm.kernels.standin.arguments import given

C_ARRAY = re.compile(r"\bCArray<\s*([\w ]+?(?:<\w+>)?)\s*,")
SIZES = {
    **dict.fromkeys(("bool", "char", "signed char", "unsigned char"), 1),
    **dict.fromkeys(("short", "unsigned short", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int", "unsigned int", "float"), 4),
    **dict.fromkeys(("long long", "unsigned long long", "double", "complex<float>"), 8),
    "complex<double>": 16,
}


class Span(NamedTuple):
    """A piece of memory. element: bytes of a number there, 1 where it is not known."""

    start: int
    end: int
    element: int = 1


allocated: dict[int, int] = {}  # what CuPy's pool has handed out: address -> bytes asked for


def span_of(address: int, certain: bool) -> Span | None:
    """The memory of the array to which an address belongs. certain: whether it is an address at
    all.
    """
    for each in given() or ():
        if each.start is not None and each.start <= address < max(each.end, each.start + 1):
            return Span(each.start, each.end, each.dtype.itemsize)
    starts = sorted(allocated)
    at = bisect_right(starts, address) - 1
    if at >= 0 and address < starts[at] + max(allocated[starts[at]], 1):
        return Span(starts[at], starts[at] + allocated[starts[at]])
    return _pages_of(address) if certain and address else None


def _pages_of(address: int) -> Span | None:
    """The piece of the process's memory that an address is in."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            start, end = (int(number, 16) for number in line.split(" ", 1)[0].split("-"))
            if start <= address < end and line.split()[1].startswith("rw"):
                return Span(start, end)
    return None


def element_sizes(source: str, kernel: str) -> dict[int, int]:
    """Bytes of a number in each parameter that is a CArray of CuPy's, by its number."""
    text = next((each for each in kernels(source) if each.name == kernel), None)
    parts = split_list(text.parameters) if text else []
    types = {position: C_ARRAY.search(part) for position, part in enumerate(parts)}
    return {position: SIZES[found[1]] for position, found in types.items() if found and found[1] in SIZES}


def allocations():
    """A hook of CuPy's memory pool that keeps how many bytes were asked for at each address."""
    from cupy.cuda import MemoryHook

    class Allocations(MemoryHook):
        name = "minillm"

        def malloc_postprocess(self, device_id, size, mem_size, mem_ptr, pmem_id):
            allocated[mem_ptr] = size

        def free_preprocess(self, device_id, mem_size, mem_ptr, pmem_id):
            allocated.pop(mem_ptr, None)

    return Allocations()
