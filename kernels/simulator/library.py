"""A compiled source, loaded: its kernels, their parameters, its shared memory and variables."""

from __future__ import annotations

import ctypes
from pathlib import Path

from minillm.kernels.simulator.compiler import runtime
from minillm.kernels.simulator.elf import Image, shared_block_size, shared_name, shared_symbols
from minillm.kernels.simulator.launch_types import Region, SharedArray
from minillm.kernels.simulator.launching import ANCHOR
from minillm.kernels.simulator.limits import THREADS, static_shared_of
from minillm.kernels.simulator.linking import VARIABLE_GAP
from minillm.kernels.simulator.signature import Parameter


class Library:
    """A compiled source: its kernels' functions, their parameters, its variables.

    path: of the shared library.
    """

    def __init__(self, path: Path):
        self.path = path
        self.runtime = runtime()
        self.functions = ctypes.CDLL(str(path))
        self.symbols = shared_symbols(path)
        self._static_shared: dict[str, int] = {}
        self.flags = [s.offset for s in self.symbols if s.name.startswith("_ZGV")]  # "initialised" flags of g++
        self.shared_arrays = [
            SharedArray(s.offset, s.size, shared_name(s.name).encode())
            for s in self.symbols
            if s.defined and s.size and s.offset not in self.flags
        ]
        self.shared_size = shared_block_size(path)
        self.shared_offset = next(s.offset for s in self.symbols if s.name == "minillm_dynamic_shared")
        image = Image(path)
        self.base = self.address(ANCHOR) - image.symbol(ANCHOR)
        self.text, self.text_size = image.instructions()
        self.variables = image.variables()
        self.regions = [
            *(self._variable(each) for each in self.variables),
            *(
                Region(self.base + start, size, 0, b"constants", 1, Region.CONSTANTS, False)
                for start, size in image.constants()
            ),
        ]

    def _variable(self, variable) -> Region:
        name = f"the variable {variable.name}".encode()
        return Region(self.base + variable.address, variable.size, VARIABLE_GAP // 2, name, 1, Region.VARIABLE, True)

    def parameters(self, index: int) -> list[Parameter]:
        describe = getattr(self.functions, f"minillm_parameters_{index}")
        describe.restype = ctypes.POINTER(Parameter)
        count = ctypes.c_int()
        first = describe(ctypes.byref(count))
        return [first[i] for i in range(count.value)]

    def static_shared(self, kernel: str) -> int:
        """Bytes of static shared memory that a kernel declares."""
        if kernel not in self._static_shared:
            self._static_shared[kernel] = static_shared_of(kernel, self.symbols)
        return self._static_shared[kernel]

    def bound(self, index: int) -> int:
        """The most threads of a block of kernel number `index`."""
        name = f"minillm_bound_{index}"
        return getattr(self.functions, name)() if hasattr(self.functions, name) else THREADS

    def address(self, name: str) -> int:
        return ctypes.cast(getattr(self.functions, name), ctypes.c_void_p).value
