"""Check and profile mode for the kernels of a CuPy program.

A kernel runs on copies of the memory that its arguments point to, between guards, as in the
simulator; bounds.py knows how long the arrays are.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from minillm.kernels.simulator.errors import Fault, SimulatorError
from minillm.kernels.simulator.launch_types import Region
from minillm.kernels.simulator.launching import Size, carry_out, described
from minillm.kernels.simulator.memory import SLACK, Buffer
from minillm.kernels.simulator.profile import Profile
from minillm.kernels.simulator.signature import parameter_names
from minillm.kernels.simulator.source import kernels
from minillm.kernels.standin import bounds
from minillm.kernels.standin.arguments import POINTER_BYTES, given, mistakes, see_arguments
from minillm.kernels.standin.bounds import Span, element_sizes, span_of


@dataclass
class Observation:
    """What is to be seen of a program's kernels, and what was.

    mode: "check" or "profile". of_cupy: whether the kernels that CuPy brings are looked at, too.
    report: is called with each new finding. profile: of the mode "profile".
    """

    mode: str
    of_cupy: bool
    report: Callable[[str], None]
    profile: Profile = field(default_factory=Profile)
    seen: dict[tuple, int] = field(default_factory=dict)  # finding -> how often

    def found(self, fault: Fault, text: str) -> None:
        """Report a fault, once for a line of a kernel and a sort of fault."""
        key = (fault.kernel, fault.file, fault.number, _sort(text))
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.seen[key] == 1:
            self.report(text)

    def mistaken(self, kernel: str, file: str, number: int, text: str) -> None:
        """Report a wrong argument of a kernel, once."""
        key = (kernel, file, number, text)
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.seen[key] == 1:
            self.report(f"{file}:{number}: {kernel}: {text}")


_observation: Observation | None = None


def mode_of(source) -> str:
    """How the kernels of a source run: "run", "check" or "profile"."""
    return _observation.mode if _observation and (source.of_user or _observation.of_cupy) else "run"


@contextmanager
def observed(mode: str, report, of_cupy: bool = False) -> Iterator[Observation]:
    """Within the `with` block, kernels run in a mode; the stand-in has to be attached.

    report: a function of a text, called with each finding.
    """
    global _observation
    hook = bounds.allocations()
    _observation = Observation(mode, of_cupy, report)
    see_arguments()
    with hook:
        try:
            yield _observation
        finally:
            _observation = None


def run(source, name: str, arguments, size: Size, mode: str, cooperative: bool = False) -> None:
    """A launch in check or profile mode. What check mode finds is reported, and the program goes
    on.

    Raises the simulator's CompileError where the kernel cannot be compiled.
    """
    library, index = source.library(name, observed=True)
    named = source.expression(name)
    file, text = source.named_code
    parameters = library.parameters(index)
    check_count(named, parameters)
    names = parameter_names(text, named)
    if mode == "check" and given() is not None:
        for text_of in mistakes(parameters, names, given()):
            _observation.mistaken(named, file, _line_of(named, text), text_of)
    values = [_bytes_at(arguments[i], _size_of(each)) for i, each in enumerate(parameters)]
    pointers = _pointers(parameters, values, element_sizes(text, named))
    buffers = _buffers([span for _, span in pointers], library.runtime, SLACK if mode == "check" else 0)
    regions = _point_to_copies(parameters, names, values, pointers, buffers)
    addresses = (ctypes.c_void_p * max(len(values), 1))(*(value.ctypes.data for value in values))
    launch = described(library, index, addresses, size, mode, threads=1, cooperative=cooperative)
    by_value = [Region(v.ctypes.data, v.nbytes, 0, b"an argument", 1, Region.CONSTANTS, False) for v in values]
    known = [*regions.values(), *by_value, *library.regions, *_other_arrays()]
    try:
        carry_out(library, launch, known, named, (file, text))
    except SimulatorError as error:
        _report(error, source)
    finally:
        for buffer in buffers:
            if regions[id(buffer)].writable:
                buffer.read(buffer.start, _memory(buffer.start, buffer.size))
            buffer.release()
    if mode == "profile":
        records = [launch.profile[i] for i in range(launch.profiled)]
        _observation.profile.add(named, library.path, records, (file, text))


def _point_to_copies(parameters, names, values, pointers, buffers) -> dict[int, Region]:
    """Put the addresses of the copies into the arguments' values; the copies as check mode
    describes memory, by their ids.
    """
    regions = {}
    for position, span in pointers:
        buffer, parameter = _holding(buffers, span), parameters[position]
        address = values[position][:POINTER_BYTES].view(np.uint64)
        address += np.uint64((buffer.address - buffer.start) % 2**64)
        before = regions.get(id(buffer))
        writable = bool(before and before.writable) or parameter.writable or not parameter.pointers
        label = f"argument {position}" + (f" ({names[position]})" if position < len(names) else "")
        regions[id(buffer)] = Region(
            *(buffer.address, buffer.size, buffer.gap, label.encode(), span.element, Region.ARGUMENT, writable),
            slack=buffer.slack,
        )
    return regions


def _other_arrays() -> list[Region]:
    """What a kernel may reach by an address that it finds in memory."""
    known = bounds.allocated.items()
    return [Region(start, size, 0, b"another array", 1, Region.ARGUMENT, True) for start, size in known if size]


def _report(error: SimulatorError, source) -> None:
    """Each finding with the line of the source that it is about."""
    lines = source.text.splitlines()
    for fault in error.faults:
        code = lines[fault.number - 1].strip() if 0 < fault.number <= len(lines) else ""
        place, text = f"{fault.file}:{fault.number}", fault.text
        if not source.place and code and (found := source.in_program(code)):
            text = text.replace(f"{place}:", f"{found}:", 1)
        _observation.found(fault, text + (f"\n    {code}" if code else ""))
    if not error.faults:
        raise error


def _line_of(kernel: str, source: str) -> int:
    """The line of a kernel's declaration, 0 where it is not found."""
    name = kernel.partition("<")[0].rpartition("::")[2]
    return next((each.line for each in kernels(source) if each.name.rpartition("::")[2] == name), 0)


def _sort(text: str) -> str:
    """A finding without the numbers in it: the same fault in another place has other ones."""
    told = text.partition("): ")[2] or text
    return "".join(letter for letter in told if not letter.isdigit())


# ------------------------------------------------------------------------------------------------------------ arguments


def check_count(kernel: str, parameters) -> None:
    """Raises SimulatorError where a kernel is called with too few or too many arguments: a GPU
    would read what lies there.
    """
    if given() is not None and len(given()) != len(parameters):
        raise SimulatorError(f"{kernel}: {len(given())} arguments given, the kernel takes {len(parameters)}")


def _size_of(parameter) -> int:
    return POINTER_BYTES if parameter.pointers else parameter.size


def _bytes_at(address: int, size: int) -> np.ndarray:
    """A copy of an argument's value, at an alignment that any type takes."""
    value = np.empty(size + 16, np.uint8)
    start = -value.ctypes.data % 16
    value = value[start : start + size]
    ctypes.memmove(value.ctypes.data, address, size)
    return value


def _pointers(parameters, values, elements: dict[int, int]) -> list[tuple[int, Span]]:
    """Which arguments have the address of an array: number of the argument, the array's memory.

    A pointer is one, and the first field of the structs in which CuPy passes an array to its own
    kernels. elements: bytes of a number in the arrays of the latter.
    """
    found = []
    for position, (parameter, value) in enumerate(zip(parameters, values)):
        if not parameter.pointers and (parameter.kind != b"s" or parameter.size < POINTER_BYTES):
            continue
        address = int.from_bytes(value[:POINTER_BYTES].tobytes(), sys.byteorder)
        if span := span_of(address, certain=bool(parameter.pointers)):
            element = (
                parameter.size if parameter.pointers == 1 and parameter.size else elements.get(position, span.element)
            )
            found.append((position, Span(span.start, span.end, element)))
    return found


def _buffers(spans: list[Span], runtime, slack: int) -> list[Buffer]:
    """Copies of pieces of memory; those that overlap share one."""
    merged: list[list[int]] = []
    for start, end, _ in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        elif not merged or merged[-1] != [start, end]:
            merged.append([start, end])
    buffers = []
    for start, end in merged:
        buffers.append(Buffer(start, end, start, runtime, slack))
        buffers[-1].write(start, _memory(start, end - start))
    return buffers


def _holding(buffers: list[Buffer], span: Span) -> Buffer:
    return next(b for b in buffers if b.start <= span.start and span.end <= b.end)


def _memory(start: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * size).from_address(start), np.uint8) if size else np.empty(0, np.uint8)
