"""Carries out what is asked of the GPU, in host memory: kernels in minillm's simulator, products in NumPy.

cuLaunchKernel gets what the simulator gets, a list of pointers to the arguments; all that is missing is the source of the
kernel, which CuPy's compiler is asked for on its way to NVRTC. So minillm's kernels run as they do on device "cudasim", and
CuPy's own, which are C++ that CuPy has written, as well: headers/ has what g++ needs to compile them.

Numbers differ from a GPU's where the simulator's do: sums in another order, exact exponentials, no fused multiply-add, C++
in the place of tensor cores. What cannot be carried out fails as a launch does that fails on a GPU; the reason is on stderr.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.kernels.standin import recording
from minillm.kernels.standin.products import multiply

HEADERS = Path(__file__).resolve().parent / "headers"
LAUNCH_FAILURE, CUBLAS_EXECUTION_FAILED = 719, 13
FEW_THREADS = 1 << 13  # of the GPU: fewer are not worth a second thread of the host


class Source(NamedTuple):
    """What a module was compiled from. names: mangled name -> name expression, for kernels that are not extern "C"."""

    text: str
    options: tuple[str, ...]
    names: dict[str, str]


_sources: dict[int, Source] = {}  # by the address of the module


@cache  # once is enough
def carry_out_everything() -> None:
    """From here on, what CuPy compiles can be run, and what is launched is."""
    from cupy.cuda import compiler

    compile_module = compiler._compile_with_cache_cuda

    def noting(source, options, *arguments, **named):
        module = compile_module(source, options, *arguments, **named)
        names = {mangled: name for name, mangled in (module.mapping or {}).items()}
        _sources[module.ptr] = Source(source, options, names)
        return module

    compiler._compile_with_cache_cuda = noting
    recording.carry_out(_answering(run, LAUNCH_FAILURE), _answering(multiply, CUBLAS_EXECUTION_FAILED))


def _answering(work, code: int):
    """`work` as C calls it: an exception becomes lines on stderr and an error code."""

    def call(asked) -> int:
        try:
            work(asked)
        except Exception:  # there is nobody above but C
            print(f"stand-in: {asked.name.decode()}:", file=sys.stderr)
            traceback.print_exc()
            return code
        return 0

    return call


# -------------------------------------------------------------------------------------------------------------- kernels


def run(launch) -> None:
    """A launch, in the simulator."""
    from minillm.kernels.simulator import errors, module, settings

    library = kernel(launch.module, launch.name.decode())
    grid, block = tuple(launch.grid), tuple(launch.block)
    blocks, chosen = int(np.prod(grid)), settings.current()
    threads = chosen.threads or (os.cpu_count() if blocks * int(np.prod(block)) > FEW_THREADS else 1)
    described = module.Launch(
        mode=settings.MODES.index("run"),
        entry=library.address("minillm_call_0"),
        arguments=launch.arguments,
        shared_anchor=library.address(module.ANCHOR),
        shared_offset=library.shared_offset,
        shared_size=library.shared_size,
        dynamic_reserve=module.DYNAMIC_SHARED_BYTES,
        dynamic_bytes=launch.shared,
        seed=chosen.seed % 2**64,
        grid=grid,
        block=block,
        order=settings.ORDERS.index(chosen.order),
        threads=min(threads, blocks),
        findings=(module.Finding * module.MAX_FINDINGS)(),
        max_findings=module.MAX_FINDINGS,
        flags=(ctypes.c_uint64 * max(len(library.flags), 1))(*library.flags),
        flag_count=len(library.flags),
        library=library.base,
        text=library.base + library.text,
        text_size=library.text_size,
    )
    module._run(library, described)
    if described.found:
        first = described.findings[0]
        raise errors.SimulatorError(f"block {tuple(first.block)}, thread {tuple(first.thread)}: {first.text.decode()}")


@cache
def kernel(module_address: int, name: str):
    """The library of a kernel for the simulator. Raises the simulator's CompileError where g++ does not take its source."""
    import cupy

    from minillm.kernels.simulator.compiler import kernel_library
    from minillm.kernels.simulator.module import Library

    source = _sources[module_address]
    text = f"{source.text}\n// CuPy {cupy.__version__}, {_headers()}\n"  # its headers are not in the simulator's key
    options = (f"-I{HEADERS}", *filter(_for_the_simulator, source.options))
    return Library(kernel_library(text, None, options, (source.names.get(name, name),)))


@cache
def _headers() -> str:
    """A digest of the headers here."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(HEADERS.rglob("*.cuh")))).hexdigest()


def _for_the_simulator(option: str) -> bool:
    """Whether an option is of use to g++: macros, and folders but for NVIDIA's, whose headers the simulator has its own of."""
    if option.startswith("-I"):
        return "_cccl" not in option and not (Path(option[2:]) / "cuda_runtime.h").exists()
    return option.startswith(("-D", "-U"))
