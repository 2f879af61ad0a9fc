"""What CuPy imports beside its own code: sorting is replaced, libraries that are not part of the
stand-in are refused by name.

Whether NVIDIA's own libraries are installed does not matter: they need a GPU.
"""

from __future__ import annotations

import importlib.abc
import sys
from types import SimpleNamespace

from minillm.kernels.standin import libraries

REFUSED = {  # module of CuPy -> pathfinder's name, what it is, what to do instead
    "cupy.cuda.cufft": ("cufft", "cuFFT (cupy.fft)", "use numpy.fft on cupy.asnumpy(x)"),
    "cupy_backends.cuda.libs.cusparse": ("cusparse", "cuSPARSE (cupyx.scipy.sparse)", "use scipy.sparse"),
    "cupy_backends.cuda.libs.cutensor": ("cutensor", "cuTENSOR", "use cupy.einsum without CUPY_ACCELERATORS=cutensor"),
    "cupy_backends.cuda.libs.cusparselt": ("cusparseLt", "cuSPARSELt", "use dense products"),
    "cupy_backends.cuda.libs.nccl": ("nccl", "NCCL", "the stand-in has one GPU"),
}


def replace(handles: dict[str, int]) -> None:
    """Arranges all that for this process.

    handles: pathfinder's name of a library -> what dlopen gave for its stand-in.
    """
    sys.meta_path.insert(0, _Refusing())
    _replace_finder_of_libraries(handles)
    _replace_thrust()


def refusal(what: str, instead: str) -> str:
    """The line that a program's author reads."""
    return f"{what} is not part of minillm's stand-in for a GPU: {instead}, or run on a GPU (docs/cupy.md)"


class _Refusing(importlib.abc.MetaPathFinder):
    """Fails where a module of CuPy is imported that calls a library which is refused."""

    def find_spec(self, name, path=None, target=None):
        if name in REFUSED:
            raise ImportError(refusal(*REFUSED[name][1:]), name=name)
        return None


def _replace_finder_of_libraries(handles: dict[str, int]) -> None:
    """CuPy 14 has NVIDIA's pathfinder load a library, and those that it needs, before the module
    that calls it.
    """
    try:
        from cuda import pathfinder
    except ImportError:
        return
    load = pathfinder.load_nvidia_dynamic_lib
    texts = {library: refusal(*text) for library, *text in REFUSED.values()}

    def load_or_refuse(name: str):
        if name in texts:
            raise pathfinder.DynamicLibNotFoundError(texts[name])
        return SimpleNamespace(_handle_uint=handles[name]) if name in handles else load(name)

    pathfinder.load_nvidia_dynamic_lib = load_or_refuse


def _replace_thrust() -> None:
    """Sorting is Thrust's, compiled into the wheel with a runtime of its own."""
    import cupy
    import cupy._core._routines_sorting as routines
    import cupy._sorting.sort as sorting

    from minillm.kernels.standin import calls, recording, thrust

    recording.hear_calls(calls.HOOK)
    libraries.cuda.standin_set_forget_hook(calls.FORGET_HOOK)
    sys.modules["cupy.cuda.thrust"] = cupy.cuda.thrust = routines.thrust = sorting.thrust = thrust
