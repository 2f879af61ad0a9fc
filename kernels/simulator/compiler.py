"""From a .cu file to a shared library: g++, a cache folder, and the linking of dynamic shared
memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import tempfile
from pathlib import Path

from minillm.kernels.simulator import settings, warnings_of
from minillm.kernels.simulator.breakpoints import compiled_at_breakpoint
from minillm.kernels.simulator.complaints import explain
from minillm.kernels.simulator.dialect import with_alignment_first, with_pointers_to_shared
from minillm.kernels.simulator.elf import shared_symbols, with_shared_arrays_apart
from minillm.kernels.simulator.errors import CompileError
from minillm.kernels.simulator.headers import HERE, Included
from minillm.kernels.simulator.host_code import without_host_code
from minillm.kernels.simulator.limits import STATIC_SHARED_BYTES, function_name, static_shared, with_launch_bounds
from minillm.kernels.simulator.linking import LINK_FLAGS, SHARED_GAP, variables_apart
from minillm.kernels.simulator.ptx import with_ptx_as_cpp
from minillm.kernels.simulator.source import kernels, masked
from minillm.kernels.simulator.toolchain import cache_folder, digest, run, run_together, toolchain

DYNAMIC_SHARED_BYTES = 227 * 1024  # the most that any GPU gives to one block (sm_90)
# DWARF 4: addr2line of binutils 2.40 reads the file table of gcc 12's DWARF 5 wrongly.
COMMON = ("-O2", "-std=c++17", "-fPIC", "-g1", "-gdwarf-4")
# The runtime's own places are in no message. -O1 takes half of the time of -O2; where its speed
# counts, see _RUNTIME_PIECES.
RUNTIME_FLAGS = ("-O1", "-g0")
_OBSERVING = frozenset(("check", "order", "profile"))
_RUNTIME_PIECES = (_OBSERVING, frozenset(path.stem for path in HERE.glob("*.cpp")) - _OBSERVING)
# A frame that does not fit on a thread's stack touches the guard below it; a division by zero is
# reported with its line; the callers of a function that faults are on the stack; variables can be
# laid out with gaps between them.
KERNEL_FLAGS = ("-fstack-clash-protection", "-fsanitize=integer-divide-by-zero", "-fno-optimize-sibling-calls")
KERNEL_FLAGS += ("-fdata-sections", "-fno-delete-null-pointer-checks")
KERNEL_FLAGS += ("-ffp-contract=off", "-fno-gnu-unique", "-fno-extern-tls-init", "-fvisibility=hidden", "-w")
KERNEL_FLAGS += ("-Wno-narrowing", "-ftrack-macro-expansion=0")  # an error in a macro is at its use
# Check and profile mode: -O1, because vectorised and merged accesses are no longer the ones that
# were written.
OBSERVED_FLAGS = ("-O1", "-fsanitize=thread", "-fsanitize=bounds", "-DMINILLM_SIMULATOR_OBSERVED")
OBSERVED_FLAGS += ("-fsanitize=signed-integer-overflow", "-fsanitize=shift-exponent")
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


# Ours that come before the user's macros if the source asks for them.
FULL_HEADERS = ("cuda_fp16.h", "cuda_bf16.h", "cooperative_groups.h", "mma_fragments.h", "mma.h", "cuda_pipeline.h")
FULL_HEADERS += ("cuda_pipeline_primitives.h", "cuda/barrier", "cuda/pipeline")
NAMES_STD = re.compile(r"\bstd\s*::|\busing\s+namespace\s+std\b")
OWN_STDINT = re.compile(r"\btypedef\b[^;{}]*\bu?int(?:8|16|32|64)_t\s*;|\busing\s+u?int\d+_t\s*=")


def runtime_library() -> Path:
    """The scheduler and everything else that does not depend on the kernel, compiled once."""
    sources = sorted(HERE.glob("*.cpp"))
    key = digest(toolchain(), *(path.read_bytes() for path in (*sources, *sorted(HERE.glob("*.h")))))
    target = cache_folder() / f"libminillm-simulator-{key}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            built = Path(folder) / target.name
            # in few pieces, at the same time: most of the time goes into the C++ library's headers
            pieces = [
                (Path(folder) / f"runtime{number}.cpp", [path for path in sources if path.stem in names])
                for number, names in enumerate(_RUNTIME_PIECES)
            ]
            for unit, names in pieces:
                unit.write_text("".join(f'#include "{source}"\n' for source in names), encoding="utf-8")
            objects = [unit.with_suffix(".o") for unit, _ in pieces]
            flags = (*COMMON, *RUNTIME_FLAGS, "-pthread", "-c", "-o")
            run_together([(*flags, made, unit) for made, (unit, _) in zip(objects, pieces)])
            run(*COMMON, "-shared", "-pthread", f"-Wl,-soname={target.name}", "-o", built, *objects)
            os.replace(built, target)
    return target


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime, loaded so that kernels find its symbols."""
    return ctypes.CDLL(str(runtime_library()), mode=ctypes.RTLD_GLOBAL)


def kernel_library(
    text: str,
    path: Path | None,
    options: tuple[str, ...],
    entries: tuple[str, ...],
    observed: bool = False,
    prefix: tuple[str, ...] = (),
) -> Path:
    """The library with the kernels `entries` of a source; `path` is where the text comes from, None
    for a string.

    prefix: headers that come before the source and are compiled once for all sources with the same
    options; with them g++ optimises less, since such kernels are many and small.
    """

    def build(text: str, more: tuple[str, ...] = ()) -> Path:
        return _built(text, path, options, entries, observed, prefix, more)

    chosen = settings.current().breakpoint
    return compiled_at_breakpoint(build, text, path, options, chosen) if chosen else build(text)


def _built(text, path, options, entries, observed, prefix, more) -> Path:
    """kernel_library, with more options for g++."""
    folder = Path(path).resolve().parent if path else None
    command = (
        *COMMON,
        *((flag for flag in KERNEL_FLAGS if flag != "-w") if observed else KERNEL_FLAGS),
        *(warnings_of.FLAGS if observed else ()),
        *_fused_multiply_add(),
        *(OBSERVED_FLAGS if observed else ()),
        *([f"-iquote{folder}"] if folder else []),
        *(("-O1",) if prefix and not observed else ()),
        f"-I{HERE}",
        *_translated(options),
        *more,
        *([f"-I{folder}"] if folder else []),
    )
    searched = [folder] if folder else []
    searched += [Path(option[2:]) for option in command if option.startswith("-I") and option != f"-I{HERE}"]
    headers = "".join(f"#include <{name}>\n" for name in prefix)
    included = Included(headers + text, [*searched, HERE])
    contents = list(included.contents.values())
    file = str(path) if path else "kernel.cu"
    unit_text = _unit(text, file, entries, included)
    key = digest(runtime_library().name, toolchain(), headers, unit_text, *command, *LINK_FLAGS, SHARED_GAP, *contents)
    target = cache_folder() / f"kernel-{key}.so"
    if target.exists():
        return target

    def complaint(log: str) -> str:
        return explain(log, _named(file, text), text, entries, kernels(text), str(HERE))

    with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary:
        build = Path(temporary)
        unit, object_file, stub, library = (build / name for name in ("unit.cpp", "unit.o", "shared.s", target.name))
        unit.write_text(included.write_device_code(build, unit_text), encoding="utf-8")
        included.write_empty(build, searched)
        options = (*command, f"-fdebug-prefix-map={build}=.")
        first = ("-include", _precompiled(headers, command, contents)) if prefix else ()
        log = run(*first, f"-I{build}", *options, "-c", unit, "-o", object_file, folder=build, complaint=complaint)
        _check_static_shared(object_file, file)
        if observed:
            with_shared_arrays_apart(object_file, SHARED_GAP)
        stub.write_text(_dynamic_shared_stub(object_file), encoding="utf-8")
        layout = variables_apart(object_file)
        (build / "layout.ld").write_text(layout, encoding="utf-8")
        script = [f"-Wl,-T,{build / 'layout.ld'}"] if layout else []  # an empty one would replace the linker's own
        options = ("-shared", *LINK_FLAGS, "-Wl,-z,defs", *script)
        run(*options, "-o", library, object_file, stub, runtime_library(), complaint=complaint)
        if observed:
            warnings_of.keep(log, target)
        os.replace(library, target)
    return target


def _precompiled(headers: str, command: tuple[str, ...], included: list[bytes]) -> Path:
    """A header with `headers` and the simulator's own, beside what g++ has compiled it to."""
    text = f'#include "cuda_simulator.h"\n{headers}#include "entry.h"\n'
    folder = cache_folder() / f"prefix-{digest(runtime_library().name, toolchain(), text, *command, *included)}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as temporary:
            made = Path(temporary) / folder.name
            made.mkdir()
            (made / "prefix.h").write_text(text, encoding="utf-8")
            run(*command, "-x", "c++-header", made / "prefix.h", "-o", made / "prefix.h.gch")
            try:
                os.rename(made, folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
    return folder / "prefix.h"


def _unit(text: str, file: str, entries: tuple[str, ...], included: Included) -> str:
    """What g++ compiles: the simulator's headers, the source at its own lines, and an entry for
    each kernel.
    """
    texts = [text, *included.texts[1:]]
    headers = ["cuda_simulator.h", *(name for name in FULL_HEADERS if name in included.names)]
    headers += [*(["ptx.h"] if included.has_ptx else []), "entry.h"]
    first = ["#define MINILLM_OWN_STDINT\n"] if OWN_STDINT.search(masked(text)) else []
    first += [f"#include <{name}>\n" for name in headers]
    if any(map(_names_std, texts)):
        first += ["#include <cmath>\n", "#include <utility>\n"]  # as nvcc does
    escaped = file.replace("\\", "\\\\").replace('"', '\\"')
    elsewhere = {word for each in included.own_texts for word in re.findall(r"\w+", each)}
    device_code = with_ptx_as_cpp(with_pointers_to_shared(with_alignment_first(without_host_code(text, elsewhere)[0])))
    device_code, bounds = with_launch_bounds(device_code, entries)
    calls = [
        f'#line 1 "<kernel {index}>"\nMINILLM_ENTRY({index}, {_address(name)})\n'
        + (f"MINILLM_BOUND({index}, {bounds[index]})\n" if index in bounds else "")
        for index, name in enumerate(entries)
    ]
    return "".join([*first, f'#line 1 "{escaped}"\n', device_code, "\n", *calls])


@functools.lru_cache(maxsize=256)  # the same headers for each of many kernels
def _names_std(text: str) -> bool:
    """Whether a text names the C++ library outside of comments."""
    return "std" in text and bool(NAMES_STD.search(masked(text)))


def _address(name: str) -> str:
    """The expression for a kernel's address: of "saxpy<float>", "scale(float*, int)" among
    overloads, or as it is.
    """
    name = name.strip()
    if name.startswith(("(", "&")):
        return name
    overload = re.fullmatch(r"([\w:]+(?:<.*>)?)\s*\((.*)\)", name)
    return f"static_cast<void (*)({overload[2]})>(&{overload[1]})" if overload else f"&{name}"


def _named(file: str, text: str) -> str:
    """How g++ names the source: as its first line says, if that is a #line."""
    named = re.match(r'#line 1 "([^"\n]*)"\n', text)
    return named[1] if named else file


def _check_static_shared(object_file: Path, file: str) -> None:
    for name, size in static_shared(shared_symbols(object_file)).items():
        if size > STATIC_SHARED_BYTES:
            text = f"{file}: {function_name(name)} has {size} bytes of static shared memory"
            text += f", and a GPU grants {STATIC_SHARED_BYTES}: use extern __shared__ and give the bytes at the launch"
            raise CompileError(text, text)


def _dynamic_shared_stub(object_file: Path) -> str:
    """Assembly that defines every `extern __shared__` name of an object file, all at the same
    address.
    """
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


@functools.cache
def _fused_multiply_add() -> tuple[str, ...]:
    """fmaf as one instruction where the processor has it; the result is the same without, ten times
    slower.
    """
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return ("-mfma",) if platform.machine() == "x86_64" and re.search(r"^flags.*\bfma\b", info, re.MULTILINE) else ()
