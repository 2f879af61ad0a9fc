"""What of a .cu file only the host can compile: its launches, calls of the CUDA runtime, main."""

from __future__ import annotations

import re

from minillm.kernels.simulator.source import DEVICE, Function, closing_bracket, functions, masked

# What only the host has: launches, the runtime's and the driver's functions, the libraries that are
# called from there.
HOST = re.compile(
    r"<<<|\b(cuda(?!_)[A-Z]\w*|cu(?:Init|Device|Ctx|Mem|Module|Launch|Stream|Event)[A-Z]\w*|cublas\w*|cusparse\w*|cufft\w*"
    r"|cusolver\w*|cudnn\w*|torch::|at::|c10::|py::|PYBIND11_MODULE|TORCH_\w+|AT_\w+|MPI_\w+|nccl[A-Z]\w*|curand(?:Generat|Create|Destroy|Set)\w*|nvtx\w*|checkCudaErrors|getLastCudaError"
    r"|thrust::|findCudaDevice|StopWatchInterface|sdk[A-Z]\w+|compareData\w*|checkCmdLineFlag|getCmdLineArgument\w+)\b"
)


def without_host_code(source: str, elsewhere: set[str] = frozenset()) -> tuple[str, list[str]]:
    """The source with blanks in place of what only the host can compile, and the names of what was
    left out.

    Left out are `main`, host functions and declarations that launch kernels or call the CUDA
    runtime, and, in such a file, the host's other functions that no device code names. Nothing is
    if the file has no such part. Line numbers stay. elsewhere: the words of the files that belong
    to it, such as its headers.
    """
    plain, given = masked(source), functions(source)
    macros = _macros(source)
    host_macros = [name for name, text in macros.items() if HOST.search(text)]
    trigger = re.compile(rf"\b(?:{'|'.join(map(re.escape, host_macros))})\b") if host_macros else None
    device_macros = {name for name, text in macros.items() if DEVICE.search(text)}

    def is_host(text: str) -> bool:
        return bool(HOST.search(text) or (trigger and trigger.search(text)))

    def on_device(function: Function) -> bool:
        words = set(re.findall(r"\w+", function.head))
        return bool(DEVICE.search(function.head) or words & device_macros or "constexpr" in words)

    host = [f for f in given if not on_device(f)]
    if not any(f.name == "main" or is_host(plain[f.start : f.end]) for f in host):
        return source, []
    calls = _calls_outside(plain, host_macros, given)
    if calls:  # their text is the host's
        source = _blanked(source, calls)
        plain, given = masked(source), functions(source)
        host = [f for f in given if not on_device(f)]
    rest = _blanked(plain, [(f.start, f.end) for f in given])
    used = set(re.findall(r"\w+", rest + " ".join(plain[f.start : f.end] for f in given if on_device(f))))
    used |= {word for text in macros.values() for word in re.findall(r"\w+", text)} | elsewhere
    kept: set[Function] = set()
    candidates = [f for f in host if f.name != "main" and not is_host(plain[f.start : f.end])]
    unnamed = [f for f in candidates if f.scope or f.name.startswith("operator")]  # reached without their name
    while new := [f for f in candidates if f not in kept and (f.name in used or f in unnamed)]:
        kept.update(new)
        used |= {word for f in new for word in re.findall(r"\w+", plain[f.body : f.end])}
    leave_out = [f for f in host if f not in kept]
    spans = [(f.start, f.end) for f in leave_out]
    spans += _host_declarations(rest, is_host, {f.name for f in leave_out if "template" in f.head})
    return _blanked(source, spans), list(dict.fromkeys(f.name for f in leave_out))


def _calls_outside(plain: str, macros: list[str], given: list[Function]) -> list[tuple[int, int]]:
    """Where macros are called outside of functions."""
    if not macros:
        return []
    found = []
    for call in re.finditer(rf"\b(?:{'|'.join(map(re.escape, macros))})\s*\(", plain):
        if not any(f.body < call.start() < f.end for f in given):
            end = closing_bracket(plain, call.end() - 1)
            if not plain[end:].lstrip().startswith("{"):  # else it is a function of the same name
                found.append((call.start(), end))
    return found


def _host_declarations(plain: str, is_host, gone: set[str]) -> list[tuple[int, int]]:
    """Objects and prototypes at namespace level whose types are the host's, and instances of the
    templates that are gone.
    """
    found, start = [], 0
    for end in re.finditer(r"[;{}]", plain):
        text = plain[start : end.start()]
        instance = re.match(r"\s*template\s+[^<;]*?(\w+)\s*[<(]", text)
        is_gone = is_host(text) or bool(instance and instance[1] in gone)
        if end[0] == ";" and is_gone and not DEVICE.search(text):
            found.append((start + len(text) - len(text.lstrip()), end.end()))
        start = end.end()
    return found


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in spans:
        text = text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
    return text


def _macros(source: str) -> dict[str, str]:
    found = re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)((?:[^\n\\]|\\[\s\S])*)", source, flags=re.MULTILINE)
    return dict(found)
