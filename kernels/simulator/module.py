"""RawModule: CuPy's face for kernels that run in the simulator."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.kernels.simulator import memory, settings
from minillm.kernels.simulator.compiler import DYNAMIC_SHARED_BYTES, kernel_library
from minillm.kernels.simulator.errors import SimulatorError
from minillm.kernels.simulator.launch_types import Region
from minillm.kernels.simulator.launching import Size, carry_out, described
from minillm.kernels.simulator.library import Library
from minillm.kernels.simulator.limits import COOPERATIVE_THREADS, PARAMETER_BYTES, STATIC_SHARED_BYTES, THREADS
from minillm.kernels.simulator.profile import Profile
from minillm.kernels.simulator.signature import check_argument, extern_c_kernels, parameter_names
from minillm.kernels.simulator.source import read_source
from minillm.kernels.simulator.watching import WatchedBlock

MAX_GRID = (2**31 - 1, 65535, 65535)  # CUDA C++ programming guide, "Technical specifications per compute capability"
MAX_BLOCK = (1024, 1024, 64)


class Pointee(NamedTuple):
    """An array that a kernel reaches: argument `position` itself (entry -1), or entry `entry` of
    the table there.
    """

    array: np.ndarray
    buffer: memory.Buffer
    writable: bool
    position: int
    entry: int


class RawModule:
    """The kernels of a CUDA source, compiled when the first one is asked for.

    code or path: the source as a string, or the file that holds it (`path` is a .cu file here;
    messages name it). options: -I, -D and -U reach g++; options that only concern a GPU are
    accepted and ignored. name_expressions: the template instances wanted, such as
    "flash_forward<64, true>". Kernels declared extern "C" are there by their plain name. mode:
    "run", "check" or "profile", where `configured` does not say otherwise. A module made with
    "profile" adds up what its kernels do in `module.profile`. enable_cooperative_groups: launches
    are cooperative, so that a kernel can wait for the whole grid.
    """

    def __init__(
        self,
        code: str | None = None,
        path=None,
        options=(),
        name_expressions=None,
        mode: str = "run",
        enable_cooperative_groups: bool = False,
    ):
        if (code is None) == (path is None):
            raise TypeError("RawModule takes either code or path")
        if mode not in settings.MODES:
            raise ValueError(f"mode is {mode!r}, not one of {', '.join(settings.MODES)}")
        self.path = Path(path).resolve() if path is not None else None
        self.code = read_source(self.path) if self.path else code
        self.options = tuple(options)
        self.mode = mode
        self.cooperative = enable_cooperative_groups
        self.profile = Profile() if mode == "profile" else None
        self.entries = tuple(dict.fromkeys([*(name_expressions or ()), *extern_c_kernels(self.code)]))
        self._libraries = {}
        self._globals = {}

    def named_code(self) -> tuple[str, str]:
        """The file that messages name, and its text."""
        if self.path:
            return str(self.path), self.code
        named = re.match(r'#line 1 "([^"\n]*)"\n', self.code)
        return (named[1], self.code[named.end() :]) if named else ("kernel.cu", self.code)

    def get_function(self, name: str) -> Kernel:
        """The kernel of a name expression, or of an extern "C" name."""
        if name not in self.entries:
            raise ValueError(
                f'no kernel {name}: it is neither declared extern "C" nor in name_expressions '
                f"(there are: {', '.join(self.entries) or 'none'})"
            )
        return Kernel(self, name)

    def get_global(self, name: str) -> np.ndarray:
        """The bytes of a variable of the module, `__device__` or `__constant__`: what is written
        there the next launch finds, and after a launch they are what it left.

            np.ndarray((5,), np.float32, module.get_global("weights"))[:] = 1
        """
        if name not in self._globals:
            library = self.library("run")
            found = [each for each in library.variables if each.name == name]
            if len(found) != 1:
                names = ", ".join(sorted({each.name for each in library.variables if "." not in each.name})) or "none"
                raise ValueError(f"the module has {len(found) or 'no'} variables {name} (there are: {names})")
            content = ctypes.string_at(library.base + found[0].address, found[0].size)
            self._globals[name] = np.frombuffer(bytearray(content), np.uint8)
        return self._globals[name]

    @contextlib.contextmanager
    def globals_in(self, library: Library):
        """For a launch: the library's variables are those that get_global gave."""
        places = {each.name: library.base + each.address for each in library.variables}
        for name, array in self._globals.items():
            ctypes.memmove(places[name], array.ctypes.data, array.nbytes)
        yield
        for name, array in self._globals.items():
            ctypes.memmove(array.ctypes.data, places[name], array.nbytes)

    def library(self, mode: str) -> Library:
        """The compiled source for a mode."""
        observed = mode != "run", id(settings.current().breakpoint)
        if observed not in self._libraries:
            progress = settings.current().progress or (lambda name: None)
            progress(Path(self.named_code()[0]).name)
            path = kernel_library(self.code, self.path, self.options, self.entries, mode != "run")
            progress("")
            self._libraries[observed] = Library(path)
        return self._libraries[observed]


class Kernel:
    """One kernel: `kernel(grid, block, args, shared_mem=0)`, as cupy.RawKernel.

    max_dynamic_shared_size_bytes: assignable as in CuPy. More than 48 KB has to be asked for there
    before a launch.
    """

    def __init__(self, module: RawModule, name: str):
        self.module = module
        self.name = name
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self._names = parameter_names(module.code, name)

    def __call__(self, grid, block, args, shared_mem: int = 0) -> None:
        chosen = settings.current()
        mode = chosen.mode or self.module.mode
        library = self.module.library(mode)
        index = self.module.entries.index(self.name)
        parameters = library.parameters(index)
        grid = self._dimensions("grid", grid, MAX_GRID)
        block = self._dimensions("block", block, MAX_BLOCK)
        self._check_limits(library, index, Size(grid, block, shared_mem))
        self._check_arguments(parameters, args)
        profile = (chosen.profile or self.module.profile) if mode == "profile" else None
        watch = profile.watch if profile is not None and profile.watches(self.name) else None
        threads = 1 if mode != "run" else chosen.threads or os.cpu_count() or 1
        size = Size(grid, block, shared_mem)
        tables = [value for value in args if isinstance(value, memory.PointerTable)]
        arrays = [value for value in args if isinstance(value, np.ndarray)]
        arrays += [array for table in tables for array in table.arrays]
        copies = memory.guarded(arrays, library.runtime, memory.SLACK if mode == "check" else 0)
        try:
            buffers = iter(copies)
            bound = [(value, next(buffers) if isinstance(value, np.ndarray) else None) for value in args]
            pointees = self._point_to_copies(parameters, bound, buffers)
            values = [self._value(value, buffer) for value, buffer in bound]  # kept alive during the launch
            launch = described(
                library, index, addresses_of(values), size, mode, threads, watch, self.module.cooperative
            )
            if chosen.trace is not None:
                launch.traced = chosen.trace.address(args, [buffer for _, buffer in bound])
            regions = [*self._regions(parameters, bound, pointees), *self._by_value(values), *library.regions]
            with self.module.globals_in(library):
                carry_out(library, launch, regions, self.name, self.module.named_code())
            self._finish(parameters, bound, pointees)
            if chosen.trace is not None:
                chosen.trace.take_up(self.name, launch, library.path)
        finally:
            for buffer in dict.fromkeys(copies):
                buffer.release()
        if profile is not None:
            records = [launch.profile[i] for i in range(launch.profiled)]
            profile.add(self.name, library.path, records, self.module.named_code())
            if launch.max_watched:
                profile.keep(WatchedBlock.of(self.name, library, launch))

    @property
    def names(self) -> list[str]:
        """The names of the parameters; empty where the source does not show them."""
        return self._names

    def label(self, position: int) -> str:
        """How messages call an argument."""
        name = f" ({self._names[position]})" if position < len(self._names) else ""
        return f"{self.name}: argument {position}{name}"

    def _dimensions(self, what: str, given, limits) -> tuple[int, int, int]:
        given = (given,) if isinstance(given, int) else tuple(given)
        if not 1 <= len(given) <= 3 or not all(isinstance(n, (int, np.integer)) for n in given):
            raise TypeError(f"{self.name}: {what} is {given!r}, it takes one to three integers")
        full = (*map(int, given), 1, 1)[:3]
        if any(not 1 <= n <= limit for n, limit in zip(full, limits)):
            raise ValueError(f"{self.name}: {what} {full} is outside CUDA's limits of 1 to {limits}")
        return full

    def _check_limits(self, library: Library, index: int, size: Size) -> None:
        threads, bound = math.prod(size.block), library.bound(index)
        if threads > THREADS:
            raise ValueError(f"{self.name}: a block of {size.block} threads is beyond CUDA's limit of {THREADS}")
        if threads > bound:
            raise ValueError(
                f"{self.name}: a block of {threads} threads, and its __launch_bounds__ say {bound} at most"
            )
        if self.module.cooperative and threads * size.blocks > COOPERATIVE_THREADS:
            raise ValueError(
                f"{self.name}: a cooperative launch of {threads * size.blocks} threads, all of which have to be there at "
                f"the same time: the simulator has room for {COOPERATIVE_THREADS}"
            )
        static = library.static_shared(self.name)
        if not 0 <= size.shared <= DYNAMIC_SHARED_BYTES - static:
            static_too = f", {static} of static shared memory besides" if static else ""
            raise ValueError(
                f"{self.name}: {size.shared} bytes of shared memory{static_too}; a GPU has {DYNAMIC_SHARED_BYTES}"
            )
        granted = self.max_dynamic_shared_size_bytes
        granted -= static if granted == STATIC_SHARED_BYTES else 0  # nothing was asked for
        if size.shared > granted:
            raise ValueError(
                f"{self.name}: {size.shared} bytes of dynamic shared memory are more than "
                f"{granted}: set max_dynamic_shared_size_bytes before the launch, as on a GPU"
            )
        of_parameters = sum(8 if each.pointers else each.size for each in library.parameters(index))
        if of_parameters > PARAMETER_BYTES:
            raise ValueError(f"{self.name}: {of_parameters} bytes of parameters, a GPU takes {PARAMETER_BYTES}")

    def _check_arguments(self, parameters, args) -> None:
        if len(args) != len(parameters):
            names = f" ({', '.join(self._names)})" if self._names else ""
            raise TypeError(f"{self.name}: {len(args)} arguments given, the kernel takes {len(parameters)}{names}")
        for position, (parameter, value) in enumerate(zip(parameters, args)):
            check_argument(self.label(position), parameter, value)

    @staticmethod
    def _value(value, buffer) -> np.ndarray:
        """The bytes that the kernel receives as this argument."""
        if buffer is not None:
            return np.array([memory.address_of(value, buffer)], np.uint64)
        return np.array([value])

    @staticmethod
    def _point_to_copies(parameters, bound, buffers) -> list[Pointee]:
        """Put the addresses of the guarded copies into each pointer table's own copy."""
        pointees = []
        for position, (parameter, (table, table_buffer)) in enumerate(zip(parameters, bound)):
            if isinstance(table, memory.PointerTable):
                copies = [(array, next(buffers)) for array in table.arrays]
                addresses = np.array([memory.address_of(*copy) for copy in copies], np.uint64)
                table_buffer.write(table_buffer.start, addresses)
                writable = parameter.writable
                pointees += [Pointee(*copy, writable, position, entry) for entry, copy in enumerate(copies)]
        return pointees

    def _finish(self, parameters, bound, pointees) -> None:
        given = [
            Pointee(value, buffer, parameter.writable and not isinstance(value, memory.PointerTable), position, -1)
            for position, (parameter, (value, buffer)) in enumerate(zip(parameters, bound))
            if buffer is not None
        ]
        for each in given + pointees:
            distance = each.buffer.guards_hit()
            if distance is not None:
                element, count = distance // each.array.itemsize, each.buffer.size // each.array.itemsize
                raise SimulatorError(
                    f"{self.label(each.position)}{f'[{each.entry}]' if each.entry >= 0 else ''}: the kernel wrote outside of "
                    f'the array, element {element} (it has {count}); mode "check" names the line'
                )
        for each in given + pointees:
            if each.writable:
                memory.copy_back(each.array, each.buffer)
            if isinstance(each.array, memory.Unwritten):
                each.array.is_unwritten = False

    def _regions(self, parameters, bound, pointees) -> list[Region]:
        """Each buffer once, with the size of its elements; writable if it is through any of the
        arguments.
        """
        found = {}
        given = [
            Pointee(value, buffer, parameter.writable and parameter.pointers == 1, position, -1)
            for position, (parameter, (value, buffer)) in enumerate(zip(parameters, bound))
            if buffer is not None
        ]
        for each in given + pointees:
            before = found.get(id(each.buffer))
            element = max(1, min(each.array.itemsize, before.element if before else each.array.itemsize))
            writable = each.writable or bool(before and before.writable)
            name = f"argument {each.position}{f'[{each.entry}]' if each.entry >= 0 else ''}"
            if each.position < len(self._names):
                name += f" ({self._names[each.position]})"
            b = each.buffer
            found[id(b)] = Region(
                b.address,
                b.size,
                b.gap,
                name.encode(),
                element,
                Region.ARGUMENT,
                writable,
                slack=b.slack,
                unwritten=getattr(each.array, "is_unwritten", False),
            )
        return list(found.values())

    @staticmethod
    def _by_value(values) -> list[Region]:
        """What is passed by value: the kernel copies it from there."""
        return [Region(v.ctypes.data, v.nbytes, 0, b"an argument", 1, Region.CONSTANTS, False) for v in values]


def addresses_of(values: list[np.ndarray]):
    """The list of addresses from which a kernel takes its arguments."""
    return (ctypes.c_void_p * max(len(values), 1))(*(value.ctypes.data for value in values))
