"""From a .cu file to a shared library: g++, a cache folder, and the linking of dynamic shared memory."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from minillm.kernels.simulator.elf import shared_symbols
from minillm.kernels.simulator.errors import CompileError, CompilerMissing
from minillm.kernels.simulator.linking import LINK_FLAGS, variables_apart

HERE = Path(__file__).resolve().parent
DYNAMIC_SHARED_BYTES = 227 * 1024  # the most that any GPU gives to one block (sm_90)
COMMON = ("-O2", "-std=c++17", "-fPIC", "-g1", "-gdwarf-4")
# A frame that does not fit on a thread's stack touches the guard below it; a division by zero is told with its line; who
# called a function that faults stands on the stack; variables can be laid out with gaps between them.
KERNEL_FLAGS = ("-fstack-clash-protection", "-fsanitize=integer-divide-by-zero", "-fno-optimize-sibling-calls")
KERNEL_FLAGS += ("-fdata-sections",)
KERNEL_FLAGS += ("-ffp-contract=off", "-fno-gnu-unique", "-fno-extern-tls-init", "-fvisibility=hidden", "-w")
# Check and profile mode: -O1, because vectorised and merged accesses are no longer the ones that were written.
OBSERVED_FLAGS = ("-O1", "-fsanitize=thread", "-fsanitize=bounds", "-DMINILLM_SIMULATOR_OBSERVED")
OBSERVED_FLAGS += ("--param=tsan-distinguish-volatile=1",)
OBSERVED_FLAGS += tuple(f"-fno-builtin-{name}" for name in ("memcpy", "memmove", "memset", "memcmp", "printf"))
GPU_ONLY_OPTIONS = (
    "-lineinfo",
    "--use_fast_math",
    "-use_fast_math",
    "--generate-line-info",
    "--std",
    "-arch",
    "-Xptxas",
)
GPU_ONLY_OPTIONS += ("--gpu-architecture", "--maxrregcount", "-maxrregcount", "-default-device", "--ptxas-options")


@functools.cache
def compiler() -> str | None:
    """The path of g++ ($CXX if set), or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def compiler_available() -> bool:
    """Whether kernels can be simulated on this machine."""
    return compiler() is not None


def cache_folder() -> Path:
    """Where compiled kernels are kept: $MINILLM_CACHE, else the user's cache folder. It may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("MINILLM_CACHE") or Path(base) / "minillm") / "simulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def runtime_library() -> Path:
    """The scheduler and everything else that does not depend on the kernel, compiled once."""
    sources = sorted(HERE.glob("*.cpp"))
    key = _digest(_toolchain(), *(path.read_bytes() for path in (*sources, *sorted(HERE.glob("*.h")))))
    target = cache_folder() / f"libminillm-simulator-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            built, unit = Path(folder) / target.name, Path(folder) / "runtime.cpp"
            # in one piece: most of the time goes into the C++ library's headers
            unit.write_text("".join(f'#include "{source}"\n' for source in sources), encoding="utf-8")
            _run(*COMMON, "-shared", "-pthread", f"-Wl,-soname={target.name}", "-o", built, unit)
            os.replace(built, target)
    return target


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime, loaded so that kernels find its symbols."""
    return ctypes.CDLL(str(runtime_library()), mode=ctypes.RTLD_GLOBAL)


def kernel_library(
    text: str, path: Path | None, options: tuple[str, ...], entries: tuple[str, ...], observed: bool = False
) -> Path:
    """The library with the kernels `entries` of a source; `path` is where the text comes from, None for a string."""
    command = (
        *COMMON,
        *KERNEL_FLAGS,
        *_fused_multiply_add(),
        *(OBSERVED_FLAGS if observed else ()),
        f"-I{HERE}",
        *_translated(options),
    )
    folder = Path(path).resolve().parent if path else None
    includes = [Path(option[2:]) for option in command if option.startswith("-I")] + ([folder] if folder else [])
    parts = (*command, *LINK_FLAGS, *entries, *_included(text, includes))
    key = _digest(runtime_library().name, _toolchain(), text, str(path), *parts)
    target = cache_folder() / f"kernel-{key}.so"
    if target.exists():
        return target
    source = f'#line 1 "{path}"\n{text}' if path else f'#line 1 "kernel.cu"\n{text}'
    calls = "".join(f"MINILLM_ENTRY({index}, {name})\n" for index, name in enumerate(entries))
    with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary:
        build = Path(temporary)
        unit, object_file, stub, library = (build / name for name in ("unit.cpp", "unit.o", "shared.s", target.name))
        unit.write_text(
            f'#include "cuda_simulator.h"\n{source}\n#line 1 "{HERE}/entry.h"\n#include <cuda_bf16.h>\n'
            f'#include "entry.h"\n{calls}',
            encoding="utf-8",
        )
        _run(
            *command,
            *([f"-I{folder}"] if folder else []),
            f"-fdebug-prefix-map={build}=.",
            "-c",
            unit,
            "-o",
            object_file,
            folder=build,
        )
        stub.write_text(_dynamic_shared_stub(object_file), encoding="utf-8")
        layout = variables_apart(object_file)
        (build / "layout.ld").write_text(layout, encoding="utf-8")
        script = [f"-Wl,-T,{build / 'layout.ld'}"] if layout else []  # an empty one would replace the linker's own
        _run("-shared", *LINK_FLAGS, *script, "-o", library, object_file, stub, runtime_library())
        os.replace(library, target)
    return target


def _dynamic_shared_stub(object_file: Path) -> str:
    """Assembly that defines every `extern __shared__` name of an object file, all at the same address."""
    names = {symbol.name for symbol in shared_symbols(object_file) if not symbol.defined}
    names.discard("_ZN11minillm_sim7runningE")  # the runtime's
    labels = "".join(f".globl {name}\n.hidden {name}\n.type {name}, %tls_object\n{name}:\n" for name in sorted(names))
    return (
        f'.section .tbss,"awT",%nobits\n.balign 1024\n{labels}.zero {DYNAMIC_SHARED_BYTES}\n'
        '.section .note.GNU-stack,"",%progbits\n'
    )


def _translated(options) -> list[str]:
    """The options that mean something to g++; those that speak of the GPU alone are dropped."""
    kept = []
    for option in options:
        if option[:2] in ("-I", "-D", "-U"):
            kept.append(option)
        elif not option.startswith((*GPU_ONLY_OPTIONS, "-std=")):
            raise ValueError(f"the simulator does not know the compiler option {option!r}: it takes -I, -D and -U")
    return kept


def _included(text: str, folders: list[Path], seen=None) -> list[bytes]:
    """The contents of the headers that a text includes with quotes, for the cache key."""
    seen = {} if seen is None else seen
    for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, flags=re.MULTILINE):
        for folder in folders:
            file = folder / name
            if file.is_file():
                if file not in seen:
                    seen[file] = file.read_bytes()
                    _included(seen[file].decode("utf-8", "replace"), [file.parent, *folders], seen)
                break
    return list(seen.values())


@functools.cache
def _toolchain() -> str:
    if compiler() is None:
        raise CompilerMissing
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    return f"{compiler()} {version} {platform.machine()}"


@functools.cache
def _fused_multiply_add() -> tuple[str, ...]:
    """fmaf as one instruction where the processor has it; the result is the same without, ten times slower."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return ("-mfma",) if platform.machine() == "x86_64" and re.search(r"^flags.*\bfma\b", info, re.MULTILINE) else ()


def _run(*arguments, folder: Path | None = None) -> None:
    if compiler() is None:
        raise CompilerMissing
    result = subprocess.run([compiler(), *map(str, arguments)], capture_output=True, text=True, cwd=folder)
    if result.returncode:
        hint = ""
        if re.search(r"no such instruction|impossible constraint in .asm|invalid .asm|bad register", result.stderr):
            hint = "\nInline PTX cannot be simulated: put it behind #ifndef MINILLM_SIMULATOR, with C++ beside it."
        raise CompileError(f"g++ does not accept the kernel:\n{result.stderr}{hint}")


def _digest(*parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:24]
