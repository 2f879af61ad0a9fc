"""The environment: versions, CPU, GPU, devices."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from minillm.backend.threads import cores, thread_count
from minillm.version import __version__

OPTIONAL_PACKAGES = (
    "cupy-cuda12x",
    "cupy-cuda13x",
    "gguf",
    "llama-cpp-python",
    "matplotlib",
    "mpi4py",
    "mpich",
    "tiktoken",
    "tokenizers",
    "torch",
    "transformers",
)


def describe() -> dict[str, str]:
    """Name -> value, in reading order."""
    return {
        "minillm": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "BLAS": _blas(),
        "cores": f"{cores()} of {os.cpu_count()}" if cores() != os.cpu_count() else str(os.cpu_count()),
        "devices": ", ".join(devices()),
        **{package: found for package in OPTIONAL_PACKAGES if (found := _installed(package))},
    }


def devices() -> list[str]:
    """The devices that a model can be moved to, with what is known of them, and those that are
    missing, with why.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))  # which compiles kernels for the simulator
    found = ["cpu", f"cudasim (simulator, compiled by {compiler})" if compiler else "no cudasim (there is no g++)"]
    try:
        import cupy
    except ImportError:
        return [*found, "no cuda (CuPy is not installed)"]
    if not cupy.cuda.is_available():
        return [*found, "no cuda (CuPy finds no driver or no device)"]
    names = [
        cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(cupy.cuda.runtime.getDeviceCount())
    ]
    return [*found, *(f"cuda ({name})" for name in names)]


def _blas() -> str:
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    threads = thread_count()
    return f"{build['name']} {build['version']}, {f'{threads} threads' if threads else 'threads not known'}"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
