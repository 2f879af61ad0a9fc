"""python standin/build.py: compiles the stand-ins for libcuda.so.1, libcublas.so.13 and libcublasLt.so.13.

They go to $MINILLM_CACHE, by default a folder of the user's cache, and are compiled again when anything changes that they
are made from. Needed: gcc, binutils, and in this virtual environment minillm's extra `nvrtc` (CuPy, NVRTC, CUDA's headers).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

NATIVE = Path(__file__).resolve().parent / "native"
CUPY, CUPY_VERSION = "cupy-cuda13x", "14.2."


class Unsupported(RuntimeError):
    """The stand-in does not work here; the message says why."""


def check_installation() -> None:
    """Raises Unsupported for another machine, another CuPy, or where something is missing that has to be installed."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Unsupported(f"the stand-in is for Linux on x86_64, this is {platform.system()} on {platform.machine()}")
    try:
        version = importlib.metadata.version(CUPY)
    except importlib.metadata.PackageNotFoundError:
        raise Unsupported(f'{CUPY} is not installed: pip install -e ".[test,nvrtc]"') from None
    if not version.startswith(CUPY_VERSION) and not os.environ.get("GPU_STANDIN_ANY_CUPY"):
        raise Unsupported(
            f"the stand-in is made for {CUPY} {CUPY_VERSION}x, this is {version}: compare RUNTIME_FUNCTIONS in attach.py with "
            "cupy_backends/cuda/api/_runtime_extern.pxi of that version, or set GPU_STANDIN_ANY_CUPY=1 to see how far it comes"
        )
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            raise Unsupported(f"{tool} is missing: install gcc and binutils")


def package_folders(name: str) -> list[Path]:
    """The folders of a package, several for a namespace; it is not imported. Raises Unsupported where there is none."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise Unsupported(f"the package {name} is missing")
    return [Path(folder) for folder in found.submodule_search_locations]


def cupy_library(package: str, name: str) -> Path:
    """A compiled module of CuPy: cupy_library("cupy_backends.cuda.api", "runtime")."""
    top, *parts = package.split(".")
    folder = package_folders(top)[0].joinpath(*parts)
    found = sorted(folder.glob(f"{name}.cpython-*.so"))
    if len(found) != 1:
        raise Unsupported(f"{folder} should have one {name}.cpython-*.so, it has {len(found)}")
    return found[0]


def symbols(library: Path, *options: str) -> dict[str, int]:
    """What nm tells of a library: name -> address (0 for what is not defined there)."""
    shown = subprocess.run(["nm", *options, library], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in shown.splitlines())
    return {row[-1].partition("@")[0]: int(row[0], 16) if len(row) == 3 else 0 for row in rows if row}


def cuda_headers() -> Path:
    """The folder of CUDA's headers, from the package nvidia-cuda-runtime."""
    for folder in package_folders("nvidia"):
        if (folder / "cu13" / "include" / "driver_types.h").is_file():
            return folder / "cu13" / "include"
    raise Unsupported('there is no driver_types.h of CUDA 13: pip install "nvidia-cuda-runtime>=13"')


def cache_folder() -> Path:
    """$MINILLM_CACHE, else a folder of the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("MINILLM_CACHE") or base / "minillm" / "standin")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build() -> dict[str, Path]:
    """The three libraries, compiled where they are not yet: soname -> path."""
    check_installation()
    wanted = sorted(
        name for name in symbols(cupy_library("cupy_backends.cuda.libs", "cublas"), "-D") if name.startswith("cublas")
    )
    sources = {
        "libcuda.so.1": (NATIVE / "cuda.c").read_text(encoding="utf-8"),
        "libcublas.so.13": _with_refusals((NATIVE / "cublas.c").read_text(encoding="utf-8"), wanted),
        "libcublasLt.so.13": "int cublasLtCreate(const void **handle) { *handle = &handle; return 0; }\n",
    }
    key = hashlib.sha256("\0".join([str(cuda_headers()), *sources.values()]).encode()).hexdigest()[:16]
    folder = cache_folder() / key
    folder.mkdir(exist_ok=True)
    return {soname: _compiled(soname, text, folder) for soname, text in sources.items()}


def _with_refusals(text: str, wanted: list[str]) -> str:
    """cublas.c with a function for each that CuPy imports and the file does not have: it says so and fails."""
    refusals = [
        f'int {name}(void) {{ fprintf(stderr, "stand-in: {name} is not there\\n"); return 15; }}\n'
        for name in wanted
        if f"int {name}(" not in text and not _of_one_type(name, text)
    ]
    return text + "".join(refusals)


def _of_one_type(name: str, text: str) -> bool:
    """Whether the macro ONE_TYPE defines a function."""
    return name[6:7] in ("S", "D") and f"cublas##LETTER##{name[7:]}(" in text


def _compiled(soname: str, text: str, folder: Path) -> Path:
    target = folder / soname
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source, versions, built = (Path(temporary) / name for name in ("source.c", "versions.map", soname))
        source.write_text(text, encoding="utf-8")
        versions.write_text(f"{soname} {{ global: *; }};\n")  # CuPy asks for cublasX@libcublas.so.13
        command = ["gcc", "-O2", "-w", "-shared", "-fPIC", f"-I{cuda_headers()}", f"-Wl,-soname={soname}"]
        command += [f"-Wl,--version-script={versions}", "-o", built, source]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise Unsupported(f"gcc does not compile {soname}:\n{result.stderr}")
        os.replace(built, target)
    return target


if __name__ == "__main__":
    try:
        for path in build().values():
            print(path)
    except Unsupported as error:
        raise SystemExit(f"build.py: {error}") from None
