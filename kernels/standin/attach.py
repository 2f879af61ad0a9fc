"""Puts the stand-in in the place of the GPU, for this process: `attach()`, before CuPy is imported.

CuPy reaches a GPU by three ways. Shared libraries are two of them, the driver (libcuda.so.1) and
what is beside the runtime (libcublas, libcurand, libcusolver): ours are loaded first, under the
same names, and the dynamic linker keeps to them. The third is CUDA's runtime, which the wheel has
linked into its module `runtime`: there each function begins with a jump to ours.
"""

from __future__ import annotations

import ctypes
import os

from minillm.errors import UserError
from minillm.kernels.standin import installation, modules
from minillm.kernels.standin.build import DRIVER, build
from minillm.kernels.standin.jump import Jumps

CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")


class Parameter(ctypes.Structure):
    """Where a kernel's parameter lies among its arguments, and its bytes (native/driver.c)."""

    _fields_ = [("offset", ctypes.c_uint), ("size", ctypes.c_uint)]


class Launch(ctypes.Structure):
    """A launch, as native/driver.c describes it. replayed: not 0 for a launch of a graph."""

    _fields_ = [
        ("module", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("parameters", ctypes.c_int),
        ("replayed", ctypes.c_int),
        ("parameter", ctypes.POINTER(Parameter)),
    ]


class Product(ctypes.Structure):
    """A product of matrices, as native/cublas.c describes it."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("c", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in "op_a op_b m n k lda ldb ldc a_type b_type c_type compute batch".split()),
        *((name, ctypes.c_int) for name in ("addresses", "device_scalars", "replayed")),
        *((name, ctypes.c_longlong) for name in ("step_a", "step_b", "step_c")),
        ("alpha", ctypes.c_uint8 * 16),
        ("beta", ctypes.c_uint8 * 16),
    ]


class Call(ctypes.Structure):
    """A call of another library's function, as native/calls.h describes it."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("count", ctypes.c_int),
        ("infos", ctypes.c_int),
        ("device_scalars", ctypes.c_int),
        ("info", ctypes.c_void_p),
        ("seed", ctypes.c_ulonglong),
        ("offset", ctypes.c_ulonglong),
        ("slots", (ctypes.c_uint8 * 16) * 24),
    ]


LaunchHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Launch))
ProductHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Product))
CallHook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Call))
GraphHook = ctypes.CFUNCTYPE(None, ctypes.c_size_t)

cuda = cublas = None  # the loaded libraries
_kept = []  # what C code uses for as long as the process lives


def attach() -> None:
    """From here on, CuPy finds a GPU of compute capability 9.0 with 80 GiB.

    Raises UserError or MissingExtra, in one line, where that cannot be done.
    """
    global cuda, cublas
    if cuda is not None:
        return
    installation.check()
    os.environ.setdefault("CUPY_CACHE_DIR", str(installation.cache_folder() / "cupy"))
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's compiled kernels bring a runtime of their own
    _kept.append(ctypes.CDLL(installation.nvrtc(), mode=ctypes.RTLD_GLOBAL))  # CuPy finds it in memory
    loaded = {soname: ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for soname, path in build().items()}
    _kept.extend(loaded.values())
    cuda, cublas = loaded[DRIVER], next(library for name, library in loaded.items() if name.startswith("libcublas."))
    _replace_runtime()
    handles = {soname.removeprefix("lib").partition(".")[0]: library._handle for soname, library in loaded.items()}
    modules.replace({**handles, "cudart": cuda._handle})


def attach_as_told() -> None:
    """Attach the stand-in as GPU_STANDIN_CAPABILITY ("8.6") and GPU_STANDIN_COMPUTE say."""
    attach()
    set_capability(os.environ.get("GPU_STANDIN_CAPABILITY", "9.0"))
    if os.environ.get("GPU_STANDIN_COMPUTE"):
        from minillm.kernels.standin.computing import carry_out_everything

        carry_out_everything()


def set_capability(capability: str) -> None:
    """The compute capability of the GPU from here on, such as "8.6"; before CuPy has asked for it.

    Raises UserError for one that is not in CAPABILITIES.
    """
    if capability not in CAPABILITIES:
        raise UserError(
            f"there is no GPU of compute capability {capability} here: choose one of {', '.join(CAPABILITIES)}"
        )
    cuda.standin_set_capability(*map(int, capability.split(".")))


def set_hooks(launch=None, product=None, call=None, graph=None) -> None:
    """What is called for each launch, product, call of another library, and launch of a graph
    (before its nodes).

    The answer is the call's error code, 0 for success. The hooks have to live as long as the
    process.
    """
    cuda.standin_set_launch_hook(launch)
    cublas.standin_set_product_hook(product)
    cuda.standin_set_call_hook(call)
    cuda.standin_set_graph_hook(graph)


def forget_errors() -> None:
    """As if no kernel had failed: CUDA itself needs a new process after an illegal address. For
    tests.
    """
    if cuda is not None:
        cuda.standin_forget_errors()


def _replace_runtime() -> None:
    path = str(installation.cupy_module("cupy_backends.cuda.api.runtime"))
    _kept.append(ctypes.CDLL(path))  # into memory: Python's import finds it there
    start, places = _loaded_at(path), installation.runtime_functions()
    with Jumps(start + min(places.values()), start + max(places.values())) as jumps:
        for name, place in places.items():
            jumps.write(start + place, ctypes.cast(getattr(cuda, f"standin_{name}"), ctypes.c_void_p).value)


def _loaded_at(path: str) -> int:
    """Where a library begins in memory."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            span, _, offset, _, _, *file = line.split(maxsplit=5)
            if file and file[0].strip() == os.path.realpath(path) and int(offset, 16) == 0:
                return int(span.partition("-")[0], 16)
    raise UserError(f"{path} is not in /proc/self/maps although it was loaded: the stand-in needs /proc")
