"""Which source a module of the GPU was compiled from, and the libraries in which the simulator has
its kernels.
"""

from __future__ import annotations

import hashlib
import sys
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from minillm.kernels.simulator.compiler import kernel_library
from minillm.kernels.simulator.library import Library
from minillm.kernels.simulator.signature import extern_c_kernels

# What every kernel that CuPy puts together begins with, and what that includes.
OF_EVERY_KERNEL = (
    *(f"cupy/{name}" for name in ("complex.cuh", "carray.cuh", "atomics.cuh", "math_constants.h")),
    *("cupy/bfloat16.cuh", "cupy/float16.cuh", "cmath", "utility"),
)
OF_SPECIAL_FUNCTIONS = (*OF_EVERY_KERNEL, "cupy/xsf_for_gxx.h")
HEADERS = Path(__file__).resolve().parent / "headers"
# Every compilation goes through these files; who calls them shows whose kernel it is.
ON_THE_WAY = ("cupy/cuda/compiler.py", "minillm/kernels/standin", "kernels/standin")


class Place(NamedTuple):
    """Where the text of a source begins: a file of the user's, and the number of lines before."""

    file: Path
    lines_before: int


class Source:
    """What a module was compiled from.

    options: as NVRTC got them. names: mangled name -> name expression, for kernels that are not
    extern "C". files: of the user's functions that asked for it, the innermost first. of_user:
    False for the kernels that CuPy brings.

    place: where the text is found in one of the files, None where it is not (CuPy has put a kernel
    together).
    """

    def __init__(self, text: str, options: tuple[str, ...], names: dict[str, str], files: list[str], of_user: bool):
        self.options, self.names, self.files, self.of_user = options, names, files, of_user
        self.place = place = _place(text, files)
        self.text = "\n" * place.lines_before + text if place else text  # lines have the numbers of the user's file
        self._libraries: dict[tuple, tuple[Library, int]] = {}

    @property
    def named_code(self) -> tuple[str, str]:
        """The file that messages name, and its text."""
        return (str(self.place.file) if self.place else "kernel.cu"), self.text

    def in_program(self, code: str) -> str | None:
        """Where a line of a kernel that CuPy has put together is in the user's files, "file:line";
        None unless it is in one of them once.
        """
        for file in self.files:
            rows = [number for number, row in enumerate(_text_of(file).splitlines(), 1) if row.strip() == code.strip()]
            if rows:
                return f"{file}:{rows[0]}" if len(rows) == 1 else None
        return None

    def expression(self, name: str) -> str:
        """How C++ names a kernel of the module."""
        return self.names.get(name, name)

    def library(self, name: str, observed: bool = False) -> tuple[Library, int]:
        """The library that has a kernel, and the kernel's number there. observed: for check and
        profile mode.

        All kernels of a source with variables are in one library, since they share them. So are
        those of a source of minillm's, in the library that device "cudasim" has. Raises the
        simulator's CompileError where g++ does not take the source.
        """
        name = self.expression(name)
        if (name, observed) not in self._libraries:
            entries = self.entries if self._is_plain else (name,)
            library = self._compiled(entries, observed)
            if library.variables and len(self.entries) > len(entries):
                entries = self.entries
                library = self._compiled(entries, observed)
            for index, entry in enumerate(entries):
                self._libraries.setdefault((entry, observed), (library, index))
        return self._libraries[name, observed]

    def variable(self, name: str, observed: bool = False) -> tuple[int, int] | None:
        """The address and the size of a __device__ or __constant__ variable, None if there is no
        such variable.
        """
        if not self.entries:
            return None
        library, _ = self.library(self.entries[0], observed)
        found = next((each for each in library.variables if each.name == name), None)
        return (library.base + found.address, found.size) if found else None

    @cached_property
    def entries(self) -> tuple[str, ...]:
        """All kernels of the source that can be asked for."""
        return tuple(dict.fromkeys([*self.names.values(), *extern_c_kernels(self.text)]))

    @property
    def _is_plain(self) -> bool:
        """Whether there is nothing of CuPy's in it, and it is in no file of a user's."""
        return self.place is None and "#include <cupy/" not in self.text

    def _compiled(self, entries: tuple[str, ...], observed: bool) -> Library:
        import cupy

        if self._is_plain:  # what the simulator is given for device "cudasim": compiled once for both
            own = tuple(option for option in self.options if _for_the_simulator(option) and not _of_cupy(option))
            return _loaded(kernel_library(self.text, None, own, entries, observed))

        # CuPy's headers are not in the simulator's key of its cache
        text = f"{self.text}\n// CuPy {cupy.__version__}, {_headers()}\n"
        options = (f"-I{HEADERS}", *filter(_for_the_simulator, self.options))
        prefix = ()
        if self.text.startswith(f"#include <{OF_EVERY_KERNEL[0]}>"):
            prefix = OF_SPECIAL_FUNCTIONS if "cupy/xsf/" in self.text else OF_EVERY_KERNEL
            folders = [Path(option[2:]) for option in options if option.startswith("-I")]
            prefix = tuple(  # an older CuPy has fewer
                name for name in prefix if "/" not in name or any((folder / name).exists() for folder in folders)
            )
        file = self.place.file if self.place else None
        return _loaded(kernel_library(text, file, options, entries, observed, prefix))


_sources: dict[int, Source] = {}  # by the address of the module


def note(module, text: str, options: tuple[str, ...], expressions: tuple[str, ...] = ()) -> None:
    """Keep what a module of CuPy's was compiled from.

    expressions: the name expressions as they were asked for; CuPy's cache has another order.
    """
    names = {module.mapping[name]: name for name in expressions}
    callers = list(_callers())
    of_user = bool(callers) and not _of_cupy(callers[0]) and "cupy_" not in next(iter(extern_c_kernels(text)), "")
    files = [file for file in dict.fromkeys(callers) if not _of_cupy(file)]
    _sources[module.ptr] = Source(text, options, names, files, of_user)


def of_module(address: int) -> Source:
    return _sources[address]


@cache
def _loaded(path: Path) -> Library:
    """A library, once for all modules of the same source."""
    return Library(path)


def _callers():
    """The files of the functions that are running, the innermost first, without those through which
    each compilation goes.
    """
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not any(part in file for part in ON_THE_WAY):
            yield file
        frame = frame.f_back


def _of_cupy(file: str) -> bool:
    return any(f"site-packages/{package}/" in file for package in ("cupy", "cupyx"))


def _place(text: str, files: list[str]) -> Place | None:
    """Where a source is in one of the files."""
    wanted = text.strip("\n")
    for file in files:
        whole = _text_of(file)
        start = whole.find(wanted) if wanted else -1
        if start >= 0:
            leading = len(text) - len(text.lstrip("\n"))
            return Place(Path(file), max(whole.count("\n", 0, start) - leading, 0))
    return None


@cache
def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


@cache
def _headers() -> str:
    """A digest of the headers here."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(HEADERS.rglob("*.*")))).hexdigest()


def _for_the_simulator(option: str) -> bool:
    """Whether an option is of use to g++: macros, and folders but for NVIDIA's, whose headers the
    simulator has its own of.
    """
    if option.startswith("-I"):
        return "_cccl" not in option and not (Path(option[2:]) / "cuda_runtime.h").exists()
    return option.startswith(("-D", "-U"))
