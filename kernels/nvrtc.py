"""Compiling kernels for a GPU on a machine that has none.

NVRTC, NVIDIA's compiler as a library, needs no driver. cupy.RawModule does, because it compiles for
the architecture of a device. Here the architecture is an argument, the options are CuPy's, and the
assembler's report gives the resources of each kernel: registers, shared memory, and spills
(registers that did not fit and are kept in slow local memory).
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import NamedTuple

import minillm.kernels
from minillm.errors import MissingExtra
from minillm.kernels.launch import CudaFile

ARCHITECTURES = (75, 80, 90, 100)
# The most shared memory that one block may ask for: CUDA C++ programming guide, "Technical
# specifications".
MAX_SHARED = {
    75: 64 * 1024,
    80: 163 * 1024,
    86: 99 * 1024,
    89: 99 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
    120: 99 * 1024,
}


class Usage(NamedTuple):
    """The resources of a kernel, by the assembler's report.

    registers: of a thread. shared: bytes of static shared memory of a block. stack: bytes of local
    memory of a thread. spill_stores, spill_loads: bytes of spilled registers written and read.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


class CompileError(Exception):
    """NVRTC rejected a file; the message is its log."""


def cuda_files() -> dict[str, list[CudaFile]]:
    """All files that launchers declare: "layer_norm.cu", "attention/naive.cu", ... -> their
    CudaFiles.

    Every launcher is imported.
    """
    found = {}
    for module in pkgutil.walk_packages(minillm.kernels.__path__, "minillm.kernels."):
        if module.name.startswith("minillm.kernels.simulator"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, CudaFile):
                parts = module.name.split(".")[2:-1]
                found.setdefault("/".join([*parts, value.path.name]), []).append(value)
    return found


def version() -> tuple[int, int]:
    """The release of NVRTC, such as (13, 0). Raises MissingExtra where it cannot be loaded."""
    return _nvrtc().getVersion()


def compile_for(arch: int, file: CudaFile) -> dict[str, Usage]:
    """Compile all instances of a file to machine code: name expression -> Usage.

    arch: such as 90 for sm_90. Raises CompileError with NVRTC's log, MissingExtra without NVRTC.
    """
    nvrtc = _nvrtc()
    program = nvrtc.createProgram(file.code, file.path.name, (), ())
    try:
        for name in file.instances:
            nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, cupy_options(arch, file.options) + ("-Xptxas=-v",))
        except nvrtc.NVRTCError as error:
            raise CompileError(f"{file.path.name} for sm_{arch}: {error}\n{nvrtc.getProgramLog(program)}") from None
        if not nvrtc.getCUBIN(program):
            raise CompileError(f"{file.path.name} for sm_{arch}: NVRTC gave no machine code")
        usage = parse_report(nvrtc.getProgramLog(program))
        return {name: usage[nvrtc.getLoweredName(program, name)] for name in file.instances}
    finally:
        nvrtc.destroyProgram(program)


def cupy_options(arch: int, options: tuple[str, ...]) -> tuple[str, ...]:
    """The options with which cupy.RawModule compiles `options` on a device of sm_`arch`."""
    from cupy._core.core import assemble_cupy_compiler_options  # what RawModule itself calls

    return assemble_cupy_compiler_options(tuple(options)) + (
        "-ftz=true",
        f"-arch=sm_{arch}",
        "--device-as-default-execution-space",
    )


def parse_report(log: str) -> dict[str, Usage]:
    """The report of `ptxas -v`: mangled name -> Usage.

    >>> parse_report('''ptxas info    : Compiling entry function 'f' for 'sm_90'
    ... ptxas info    : Function properties for f
    ... ptxas         .     0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
    ... ptxas info    : Used 16 registers, used 1 barriers, 256 bytes smem''')
    {'f': Usage(registers=16, shared=256, stack=0, spill_stores=8, spill_loads=4)}
    """
    usage = {}
    for section in log.split("Compiling entry function '")[1:]:
        name = section.partition("'")[0]
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", section)
        registers = re.search(r"Used (\d+) registers", section)
        shared = re.search(r"(\d+) bytes smem", section)
        stack, stores, loads = map(int, frame.groups())
        usage[name] = Usage(int(registers[1]), int(shared[1]) if shared else 0, stack, stores, loads)
    return usage


def _nvrtc():
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()  # loads the library
    except (ImportError, RuntimeError) as error:
        raise MissingExtra(f"compiling without a GPU ({error})", "NVRTC", "nvrtc") from None
    return nvrtc
