"""A launch of a compiled kernel, from its description to what it found."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from typing import NamedTuple

from minillm.kernels.simulator import settings
from minillm.kernels.simulator.array_names import with_array_name
from minillm.kernels.simulator.compiler import DYNAMIC_SHARED_BYTES
from minillm.kernels.simulator.errors import Fault, OtherAccess, SimulatorError
from minillm.kernels.simulator.launch_types import Finding, Launch, ProfileRecord, Region, SharedArray, WarpAccess
from minillm.kernels.simulator.lines import in_kernel, source_lines
from minillm.kernels.simulator.warnings_of import warnings_of

MAX_FINDINGS = 64
MAX_PROFILED = 4096  # instructions of a kernel that access memory
MAX_WATCHED = 16384  # such instructions times warps of the watched block
ANCHOR = "minillm_shared_anchor"


class Size(NamedTuple):
    """Blocks, threads of a block, bytes of dynamic shared memory."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)


def described(
    library,
    index: int,
    addresses,
    size: Size,
    mode: str,
    threads: int,
    watch: int | None = None,
    cooperative: bool = False,
) -> Launch:
    """The launch of kernel number `index` of a Library.

    addresses: where each argument's value is (an array of c_void_p). threads: of the host. watch:
    the number of the block whose accesses are kept in the mode "profile". cooperative: whether its
    blocks are there at the same time, and can wait for each other. The caller adds the
    regions of memory that check mode knows, and keeps alive what the addresses point to.
    """
    chosen, watched = settings.current(), watch is not None
    return Launch(
        mode=settings.MODES.index(mode),
        entry=library.address(f"minillm_call_{index}"),
        arguments=addresses,
        shared_anchor=library.address(ANCHOR),
        shared_offset=library.shared_offset,
        shared_size=library.shared_size,
        dynamic_reserve=DYNAMIC_SHARED_BYTES,
        dynamic_bytes=size.shared,
        seed=chosen.seed % 2**64,
        grid=size.grid,
        block=size.block,
        order=settings.ORDERS.index(chosen.order),
        threads=1 if cooperative else max(1, min(threads, size.blocks)),
        cooperative=cooperative,
        portable_fibers=os.environ.get("MINILLM_SIMULATOR_FIBERS") == "ucontext",
        findings=(Finding * MAX_FINDINGS)(),
        max_findings=MAX_FINDINGS,
        flags=(ctypes.c_uint64 * max(len(library.flags), 1))(*library.flags),
        flag_count=len(library.flags),
        shared_arrays=(SharedArray * max(len(library.shared_arrays), 1))(*library.shared_arrays),
        shared_array_count=len(library.shared_arrays),
        profile=(ProfileRecord * MAX_PROFILED)() if mode == "profile" else None,
        max_profiled=MAX_PROFILED,
        watched_block=watch or 0,
        watched_accesses=(WarpAccess * MAX_WATCHED)() if watched else None,
        max_watched=MAX_WATCHED if watched else 0,
        library=library.base,
        text=library.base + library.text,
        text_size=library.text_size,
        seconds=chosen.seconds or 0.0,
    )


def carry_out(library, launch: Launch, regions: list[Region], name: str, source: tuple[str, str]) -> None:
    """Run a launch; Python's handlers of signals run meanwhile, and what they raise ends it.

    regions: the memory that the kernel may touch. source: its file and text, for messages.
    Raises SimulatorError for what the kernel did that a GPU does not allow.
    """
    launch.regions, launch.region_count = (Region * len(regions))(*regions), len(regions)
    chosen = settings.current().breakpoint
    with chosen.watching(library, launch, name) if chosen else contextlib.nullcontext():
        library.runtime.minillm_sim_launch(ctypes.byref(launch))
    if launch.raised[0]:
        ctypes.pythonapi.PyErr_Restore(*map(ctypes.c_void_p, launch.raised))  # raises it
    if launch.exhausted:
        mode = settings.MODES[launch.mode]
        raise MemoryError(f"no room for what the simulator keeps of {name}: {_kept(mode)}")
    warned = warnings_of(library.path, name, *source) if settings.MODES[launch.mode] == "check" else []
    if launch.found or warned:
        raise _error(library, launch, name, source, warned)


def _error(library, launch: Launch, name: str, source: tuple[str, str], warned: list[str]) -> SimulatorError:
    findings = [launch.findings[i] for i in range(launch.found)]
    addresses = [pc - 1 for f in findings for pc in (f.pc, f.other_pc, *f.callers) if pc]
    places = source_lines(library.path, addresses)
    faults = []
    for f in findings:
        if f.pc:
            candidates = [places[pc - 1] for pc in (f.pc, *f.callers) if pc]
            place = next((place for place in candidates if in_kernel(place)), candidates[0])
        else:
            place = f"{f.file.decode()}:{f.line}" if f.file else source[0]
        told = with_array_name(f.text.decode(), *_line(place, *source))
        text = f"{place}: {name}, block {tuple(f.block)}, thread {tuple(f.thread)}: {told}"
        if f.other_pc:
            text += f" ({places[f.other_pc - 1]}, thread number {f.other_thread} of block number {f.other_block})"
        text += f" [{f.times} times]" if f.times > 1 else ""
        other = OtherAccess(*_parts(places[f.other_pc - 1]), f.other_thread, f.other_block) if f.other_pc else None
        where = (*_parts(place), tuple(f.block), tuple(f.thread), tuple(launch.grid), tuple(launch.block))
        faults.append(Fault(name, text, *where, f.times, other))
    texts = [*(fault.text for fault in faults), *warned]
    return SimulatorError("\n".join(texts), texts, faults)


def _line(place: str, file: str, source: str) -> tuple[str, str]:
    """The line "file:number" of the source, and the source; empty where the place is in another
    file.
    """
    name, _, number = place.rpartition(":")
    lines = source.splitlines()
    known = name == file and number.isdigit() and 0 < int(number) <= len(lines)
    return (lines[int(number) - 1], source) if known else ("", "")


def _kept(mode: str) -> str:
    """What of a launch fills the memory in a mode."""
    return {"check": "who touched each byte last", "profile": "the accesses of each warp"}.get(
        mode, "its threads' stacks"
    )


def _parts(place: str) -> tuple[str, int]:
    """The file and the line of "file:line"; line 0 where it is not known."""
    file, _, number = place.rpartition(":")
    return (file, int(number)) if number.isdigit() else (place, 0)
