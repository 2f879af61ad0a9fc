"""Carries out what is asked of the GPU, in host memory: kernels in minillm's simulator, products in
NumPy.

cuLaunchKernel gets what the simulator gets, a list of pointers to the arguments; all that is
missing is the source of the kernel, which CuPy's compiler is asked for on its way to NVRTC. So
minillm's kernels run as they do on device "cudasim", and CuPy's own, which are C++ that CuPy has
written, as well: headers/ has what g++ needs to compile them.

Numbers differ from a GPU's where the simulator's do: sums in another order, exact exponentials, no
fused multiply-add, C++ in the place of tensor cores. What cannot be carried out fails as a launch
does that fails on a GPU; CuPy's exception says why.
"""

from __future__ import annotations

import ctypes
import inspect
import os
from functools import cache

from minillm.errors import UserError
from minillm.kernels.simulator import errors, settings
from minillm.kernels.simulator.launching import Size, carry_out, described
from minillm.kernels.standin import attach, generator, observing, recording, sources
from minillm.kernels.standin.arguments import given
from minillm.kernels.standin.products import multiply

LAUNCH_FAILURE, NOT_SUPPORTED, INVALID_VALUE, NOT_FOUND = 719, 801, 1, 500  # cudaError
CUBLAS_EXECUTION_FAILED = 13
FEW_THREADS = 1 << 13  # of the GPU: fewer are not worth a second thread of the host


@cache  # once is enough
def carry_out_everything() -> None:
    """From here on, what CuPy compiles can be run, and what is launched is."""
    from cupy.cuda import compiler

    compile_module = compiler._compile_with_cache_cuda
    signature = inspect.signature(compile_module)  # versions of CuPy differ in the order of the arguments

    def noting(*arguments, **named):
        asked = signature.bind(*arguments, **named).arguments
        source, options, backend = asked["source"], asked["options"], asked.get("backend", "nvrtc")
        if backend != "nvrtc":
            raise compiler.CompileException(WITHOUT_NVCC.format(backend), source, "", options, backend)
        module = compile_module(*arguments, **named)
        sources.note(module, source, options, tuple(asked.get("name_expressions") or ()))
        return module

    compiler._compile_with_cache_cuda = noting
    generator.replace()
    attach.cuda.standin_set_variable_hook(_VARIABLE_HOOK)
    recording.carry_out(_answering(run, LAUNCH_FAILURE), _answering(multiply, CUBLAS_EXECUTION_FAILED))


WITHOUT_NVCC = (
    "backend={!r} needs NVIDIA's compiler, which is not here: the stand-in takes backend='nvrtc', the default"
)


def _answering(work, code: int):
    """`work` as C calls it: what it raises becomes an error code, and the text of CuPy's exception.

    code: of a fault of the GPU's, after which nothing else can be asked for, as on a real one.
    """

    def call(asked) -> int:
        try:
            work(asked)
        except KeyboardInterrupt:
            recording.interrupt_after_hook()
        except (errors.CompileError, UserError) as error:
            return _explained(str(error), NOT_SUPPORTED)
        except errors.SimulatorError as error:
            return _explained(str(error), code if error.faults else INVALID_VALUE)
        except Exception as error:  # above is C code of CuPy's, which an exception of Python cannot cross
            return _explained(f"{asked.name.decode()}: {type(error).__name__}: {error}", code)
        return 0

    return call


def _explained(text: str, code: int) -> int:
    attach.cuda.standin_set_reason(text.encode())
    return code


def run(launch) -> None:
    """A launch, in the simulator."""
    source, name = sources.of_module(launch.module), launch.name.decode()
    size = Size(tuple(launch.grid), tuple(launch.block), launch.shared)
    mode = observing.mode_of(source)
    if mode != "run":
        observing.run(source, name, launch.arguments, size, mode, bool(launch.cooperative))
        return
    library, index = source.library(name)
    if given() is not None:
        observing.check_count(source.expression(name), library.parameters(index))
    many = size.blocks * launch.block[0] * launch.block[1] * launch.block[2] > FEW_THREADS
    threads = settings.current().threads or (os.cpu_count() if many else 1)
    cooperative = bool(launch.cooperative)
    prepared = described(library, index, launch.arguments, size, "run", threads, cooperative=cooperative)
    carry_out(library, prepared, [], source.expression(name), source.named_code)


def _find_variable(module: int, name: bytes, address, size) -> int:
    """Where a variable of a module is, for cupy.RawModule.get_global."""
    source = sources.of_module(module)
    try:
        found = source.variable(name.decode(), observing.mode_of(source) != "run")
    except errors.SimulatorError:
        return NOT_FOUND
    if found is None:
        return NOT_FOUND
    address[0], size[0] = found
    return 0


_VARIABLE_HOOK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_size_t),
)(_find_variable)
