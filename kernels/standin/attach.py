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
from minillm.kernels.standin import installation, libraries, modules
from minillm.kernels.standin.build import DRIVER, build
from minillm.kernels.standin.jump import Jumps

CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")


cuda = None  # the stand-in's libcuda, loaded by ctypes; None before attach()
_kept = []  # what C code uses for as long as the process lives


def attach() -> None:
    """From here on, CuPy finds a GPU of compute capability 9.0 with 80 GiB.

    Raises UserError or MissingExtra, in one line, where that cannot be done.
    """
    global cuda
    if cuda is not None:
        return
    installation.check()
    os.environ.setdefault("CUPY_CACHE_DIR", str(installation.cache_folder() / "cupy"))
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's compiled kernels bring a runtime of their own
    _kept.append(ctypes.CDLL(installation.nvrtc(), mode=ctypes.RTLD_GLOBAL))  # CuPy finds it in memory
    loaded = {soname: ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for soname, path in build().items()}
    _kept.extend(loaded.values())
    libraries.cuda = loaded[DRIVER]
    libraries.cublas = next(library for name, library in loaded.items() if name.startswith("libcublas."))
    _replace_runtime()
    handles = {soname.removeprefix("lib").partition(".")[0]: library._handle for soname, library in loaded.items()}
    modules.replace({**handles, "cudart": libraries.cuda._handle})
    cuda = libraries.cuda


def set_capability(capability: str) -> None:
    """The compute capability of the GPU from here on, such as "8.6"; before CuPy has asked for it.

    Raises UserError for one that is not in CAPABILITIES.
    """
    if capability not in CAPABILITIES:
        raise UserError(
            f"there is no GPU of compute capability {capability} here: choose one of {', '.join(CAPABILITIES)}"
        )
    cuda.standin_set_capability(*map(int, capability.split(".")))


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
            jumps.write(start + place, ctypes.cast(getattr(libraries.cuda, f"standin_{name}"), ctypes.c_void_p).value)


def _loaded_at(path: str) -> int:
    """Where a library begins in memory."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            span, _, offset, _, _, *file = line.split(maxsplit=5)
            if file and file[0].strip() == os.path.realpath(path) and int(offset, 16) == 0:
                return int(span.partition("-")[0], 16)
    raise UserError(f"{path} is not in /proc/self/maps although it was loaded: the stand-in needs /proc")
