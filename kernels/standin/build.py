"""Compiles the stand-ins for libcuda.so.1, libcublas, libcurand and libcusolver.

They go to installation.cache_folder() and are compiled again when anything changes that they are
made from: our C, the installed CuPy's functions, CUDA's headers.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from minillm.errors import UserError
from minillm.kernels.standin import installation, signatures

NATIVE = Path(__file__).resolve().parent / "native"
DRIVER = "libcuda.so.1"
_DRIVER_SOURCES = ("errors.c", "devices.c", "memory.c", "streams.c", "graphs.c", "driver.c", "calls.c")


class Library(NamedTuple):
    """A library that is part of the stand-in.

    files: names in native/. text: C that is written for the installed CuPy.
    """

    soname: str
    files: tuple[str, ...]
    text: str


def build() -> dict[str, Path]:
    """The libraries, compiled where they are not yet: soname -> path, the driver's first.

    Raises UserError where the compiler refuses; installation.check() has looked for everything
    else.
    """
    libraries = [
        _driver(),
        *_of_cupy("cublas", signatures.CUBLAS, 13, 15),
        *_of_cupy("curand", signatures.CURAND, 201, 999),
    ]
    libraries += _of_cupy("cusolver", signatures.CUSOLVER, 6, 9)
    libraries.append(_cublas_lt(libraries))
    headers, version = installation.cuda_headers(), installation.cuda_version(installation.cuda_headers())
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", f"-DCUDA_VERSION_OF_WHEEL={version}"]
    flags += [f"-I{NATIVE}", f"-isystem{headers}", f"-isystem{NATIVE}"]
    sources = [path.read_text(encoding="utf-8") for path in sorted(NATIVE.rglob("*.[ch]"))]
    made_from = "\0".join([installation.compiler(), *flags, *sources, *(library.text for library in libraries)])
    folder = installation.cache_folder() / hashlib.sha256(made_from.encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    return {library.soname: _compiled(library, flags, folder) for library in libraries}


def _driver() -> Library:
    """libcuda.so.1, and a function for each of the runtime's that our C does not have: it says so
    and fails.
    """
    ours = _defined(_DRIVER_SOURCES)
    missing = [name for name in installation.runtime_functions() if f"standin_{name}" not in ours]
    refusals = [f'int standin_{name}(void) {{ return standin_missing("{name}"); }}\n' for name in sorted(missing)]
    return Library(DRIVER, _DRIVER_SOURCES, "int standin_missing(const char* name);\n" + "".join(refusals))


def _of_cupy(name: str, table: dict[str, str], failed: int, not_supported: int) -> list[Library]:
    """The stand-in for a library such as "cublas". failed, not_supported: its codes for these."""
    soname, wanted = installation.library_functions(name)
    ours, known = _defined((f"{name}.c",)), signatures.functions(table)
    text = ['#include "calls.h"\n']
    looked_up = [function for function in known if function.startswith("cusolverDnXgeev")]  # at run time, by CuPy 14
    for function in (*wanted, *looked_up):
        if function in known:
            text.append(signatures.c_code(known[function], failed))
        elif function not in ours:
            reason = "the stand-in does not have it: see docs/cupy.md for what it covers"
            text.append(
                f'int {function}(void) {{ return standin_unable({not_supported}, "{function}", "{reason}"); }}\n'
            )
    return [Library(soname, (f"{name}.c",), "".join(text))]


def _cublas_lt(libraries: list[Library]) -> Library:
    """libcublasLt, which is only looked for beside libcublas."""
    soname = next(library.soname for library in libraries if library.soname.startswith("libcublas."))
    return Library(
        soname.replace("cublas", "cublasLt"),
        (),
        "int cublasLtCreate(const void **handle) { *handle = &handle; return 0; }\n",
    )


def _defined(files: tuple[str, ...]) -> set[str]:
    """The functions that files in native/ define, macros of one type written out."""
    text = "".join((NATIVE / name).read_text(encoding="utf-8") for name in files)
    found = set(re.findall(r"\b(standin_\w+|cublas\w+|curand\w+|cusolver\w+)\(", text))
    types = re.findall(r"^ONE_TYPE\((\w)", text, re.MULTILINE)
    patterns = re.findall(r"\bcublas##LETTER##(\w+)\(", text)
    return found | {f"cublas{letter}{rest}" for letter in types for rest in patterns}


def _compiled(library: Library, flags: list[str], folder: Path) -> Path:
    target = folder / library.soname
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source, versions, built = (Path(temporary) / name for name in ("written.c", "versions.map", library.soname))
        source.write_text(library.text, encoding="utf-8")
        versions.write_text(f"{library.soname} {{ global: *; }};\n")  # CuPy asks for cublasX@libcublas.so.13
        command = [installation.compiler(), *flags, f"-Wl,-soname={library.soname}", f"-Wl,--version-script={versions}"]
        command += ["-o", str(built), str(source), *(str(NATIVE / name) for name in library.files)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            lines = result.stderr.splitlines()
            why = next(
                (line for line in lines if "error" in line), lines[-1] if lines else f"it ends with {result.returncode}"
            )
            raise UserError(f"{command[0]} does not compile the stand-in's {library.soname}: {why}")
        os.replace(built, target)
    return target
