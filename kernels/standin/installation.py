"""What the stand-in is made from: the installed CuPy, CUDA's headers, a C compiler.

A clear error where one is missing.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from minillm.errors import MissingExtra, UserError
from minillm.kernels.standin.elf import SharedLibrary

FEATURE = "the stand-in for a GPU"
CUPYS = {"cupy-cuda12x": 12, "cupy-cuda13x": 13}
OLDEST, NEWEST = (13, 6), (14, 2)  # of CuPy, tried
_ANY = "MINILLM_STANDIN_ANY_CUPY"
_TOOLKIT = "/usr/local/cuda"
_EXTRAS = {12: "standin-cuda12", 13: "standin"}


def check() -> None:
    """Raises UserError or MissingExtra, one line, where the stand-in cannot work: what, where, what
    to do.
    """
    if platform.system() != "Linux":
        raise UserError(
            f"{FEATURE} is for Linux, this is {platform.system()}: use a container, WSL 2, or device cudasim, which is "
            "minillm's simulator without CuPy"
        )
    if platform.machine() not in ("x86_64", "aarch64"):
        raise UserError(f"{FEATURE} runs on x86-64 and arm64, this is {platform.machine()}: use device cudasim")
    if sys.maxsize < 2**32:
        raise UserError(f"{FEATURE} needs a 64-bit Python")
    if "cupy" in sys.modules or "cupy_backends" in sys.modules:
        raise UserError(
            f"{FEATURE} has to be attached before CuPy is imported: call attach() first, or run the program by it"
        )
    compiler()
    _check_cupy()
    cuda_headers()
    nvrtc()
    if importlib.util.find_spec("ml_dtypes") is None:
        raise MissingExtra(FEATURE, "ml_dtypes", _EXTRAS[cuda_major()])


@cache
def cupy_package() -> tuple[str, str]:
    """The installed distribution of CuPy and its version.

    Raises MissingExtra without, UserError with several.
    """
    found = []
    for name in (*CUPYS, "cupy", "cupy-cuda11x", "cupy-rocm-5-0", "cupy-rocm-7-0"):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    if not found or importlib.util.find_spec("cupy_backends") is None:
        raise MissingExtra(FEATURE, "CuPy", _EXTRAS[13])
    if len(found) > 1:
        names = " and ".join(f"{name} {version}" for name, version in found)
        remove = " ".join(name for name, _ in found)
        raise UserError(f"{names} are installed over each other: pip uninstall {remove}, then install one of them")
    return found[0]


def _check_cupy() -> None:
    name, version = cupy_package()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name not in CUPYS:
        raise UserError(
            f"{FEATURE} takes the wheels {' and '.join(CUPYS)}, installed is {name} {version}: install one of them"
        )
    if not OLDEST <= numbers <= NEWEST and not os.environ.get(_ANY):
        raise UserError(
            f"{FEATURE} was tried with CuPy {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}, installed is {name} "
            f'{version}: pip install "{name}=={NEWEST[0]}.{NEWEST[1]}.*", or set {_ANY}=1 to see how far it comes'
        )


@cache
def cuda_major() -> int:
    """12 or 13: the CUDA that the installed CuPy was built for."""
    return CUPYS.get(cupy_package()[0], 13)


@cache
def compiler() -> str:
    """The C compiler: $CC, gcc, cc or clang. Raises UserError without."""
    for name in (os.environ.get("CC", ""), "gcc", "cc", "clang"):
        if name and shutil.which(name):
            return name
    raise UserError(
        f"{FEATURE} is compiled when it is first used, and there is no C compiler: install gcc and g++, or set CC"
    )


@cache
def cuda_headers() -> Path:
    """The folder of CUDA's headers, for the structs of the runtime: of NVIDIA's package for the
    runtime, else of a toolkit.

    Raises MissingExtra where there are none of the CUDA that CuPy was built for.
    """
    places = [part / "include" for part in _nvidia_folders("cuda_runtime" if cuda_major() == 12 else "cu13")]
    toolkits = (os.environ.get(name) for name in ("CUDA_PATH", "CUDA_HOME"))
    places += [Path(folder) / "include" for folder in (*toolkits, _TOOLKIT) if folder]
    for folder in places:
        if (folder / "driver_types.h").is_file() and cuda_version(folder) // 1000 == cuda_major():
            return folder
    raise MissingExtra(FEATURE, f"CUDA {cuda_major()}'s headers (nvidia-cuda-runtime)", _EXTRAS[cuda_major()])


def cuda_version(headers: Path) -> int:
    """The version of CUDA's headers, 13000 for 13.0; 0 where they do not say."""
    try:
        text = (headers / "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    found = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text)
    return int(found[1]) if found else 0


def nvrtc() -> str:
    """What the dynamic linker loads NVRTC by: the file of NVIDIA's package, else the library's
    name.

    Raises MissingExtra where there is none. CuPy before 14 does not look into NVIDIA's packages,
    and later ones end in a long traceback.
    """
    library = f"libnvrtc.so.{cuda_major()}"
    for folder in _nvidia_folders("cuda_nvrtc" if cuda_major() == 12 else "cu13"):
        if (folder / "lib" / library).exists():
            return str(folder / "lib" / library)
    try:
        ctypes.CDLL(library)
        return library
    except OSError:
        return _nvrtc_elsewhere(library)


def _nvrtc_elsewhere(library: str) -> str:
    """NVRTC of conda or of a toolkit, where CuPy 14's finder finds it."""
    try:
        from cuda import pathfinder

        return pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path
    except (ImportError, RuntimeError):  # pathfinder's errors are RuntimeErrors
        raise MissingExtra(FEATURE, f"NVRTC ({library})", _EXTRAS[cuda_major()]) from None


def _nvidia_folders(part: str) -> list[Path]:
    """The folders of one of NVIDIA's packages: nvidia/PART."""
    found = importlib.util.find_spec("nvidia")
    places = found.submodule_search_locations if found else None
    return [Path(folder) / part for folder in places or () if (Path(folder) / part).is_dir()]


def cupy_module(name: str) -> Path:
    """The file of a compiled module of CuPy: cupy_module("cupy_backends.cuda.api.runtime"). It is
    not imported.
    """
    top, *parts, last = name.split(".")
    root = importlib.util.find_spec(top)
    folder = Path(root.submodule_search_locations[0]).joinpath(*parts)
    found = sorted(folder.glob(f"{last}.cpython-*.so"))
    if len(found) != 1:
        raise UserError(f"{folder} should have one {last}.cpython-*.so, it has {len(found)}: install CuPy again")
    return found[0]


def runtime_functions() -> dict[str, int]:
    """CUDA's runtime in CuPy's module `runtime`, linked into it: function -> its place from the
    module's start.

    All of them, so that none of another version of CuPy reaches a driver that is not there.
    """
    path = cupy_module("cupy_backends.cuda.api.runtime")
    functions = SharedLibrary(path).functions()
    found = {name: at.address for name, at in functions.items() if re.fullmatch(r"cuda[A-Z]\w*", name)}
    if "cudaMalloc" not in found:
        raise UserError(f"{path} does not have CUDA's runtime in it: {FEATURE} takes the wheels {' and '.join(CUPYS)}")
    return found


def library_functions(name: str) -> tuple[str, list[str]]:
    """What CuPy takes of a library such as "cublas": the library's soname and the functions,
    ("libcublas.so.13", [...]).
    """
    needed = SharedLibrary(cupy_module(f"cupy_backends.cuda.libs.{name}")).needed()
    wanted = {function: version for function, version in needed.items() if function.startswith(name)}
    sonames = set(wanted.values())
    if len(sonames) != 1:
        raise UserError(f"CuPy's module {name} takes its functions from {sorted(sonames)}: install CuPy again")
    return sonames.pop(), sorted(wanted)


def cache_folder() -> Path:
    """$MINILLM_CACHE, else a folder of the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("MINILLM_CACHE") or base / "minillm" / "standin")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror
        raise UserError(
            f"the compiled stand-in cannot be kept in {folder} ({reason}): name a folder in MINILLM_CACHE"
        ) from None
    return folder
