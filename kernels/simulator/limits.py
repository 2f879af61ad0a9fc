"""What a GPU grants a kernel at most: threads by its __launch_bounds__, static shared memory, bytes
of parameters.

How many registers a kernel takes only NVIDIA's compiler knows. Source: CUDA C++ programming guide,
"Technical specifications per compute capability" and "Launch bounds".
"""

from __future__ import annotations

import re

from minillm.kernels.simulator.elf import SharedSymbol
from minillm.kernels.simulator.source import Function, closing_bracket, functions, masked, split_list

THREADS = 1024  # of a block
STATIC_SHARED_BYTES = 48 * 1024
PARAMETER_BYTES = 32764  # sm_70 and later, CUDA 12.1 and later
COOPERATIVE_THREADS = 16384  # of the simulator's own: each has a stack
BOUNDS = re.compile(r"\b__launch_bounds__\s*\(")


def with_launch_bounds(source: str, entries: tuple[str, ...]) -> tuple[str, dict[int, str]]:
    """The source with a constant before each kernel that has launch bounds, and the expression for
    the most threads of a block of each entry where it is known. Line numbers stay.
    """
    plain = masked(source)
    bounded: dict[str, list[str]] = {}
    insertions = []
    for number, function in enumerate(functions(source)):
        name = "::".join([*function.scope, function.name])
        if "__global__" not in plain[function.start : function.body]:
            continue
        bound = _bound(source, plain, function)
        constant = f"minillm_most_threads_{number}"
        bounded.setdefault(name, []).append("::".join([*function.scope, constant]) if bound else "")
        if bound:
            template = re.match(r"template\s*<", plain[function.start :])
            end = _template_end(plain, function.start + template.end() - 1) if template else function.start
            text = f"{source[function.start : end]} constexpr int {constant} = int({bound});"
            insertions.append((function.start, re.sub(r"\s*\n\s*", " ", text) + " "))
    for start, text in reversed(insertions):
        source = source[:start] + text + source[start:]
    found = {}
    for index, entry in enumerate(entries):
        parts = re.fullmatch(r"([\w:]+)\s*(<.*>)?", entry.strip())
        constants = bounded.get(parts[1], []) if parts else []
        if len(constants) == 1 and constants[0]:
            found[index] = constants[0] + (parts[2] or "")
    return source, found


def static_shared(symbols: list[SharedSymbol]) -> dict[str, int]:
    """Bytes of the shared arrays that each function declares, by its mangled name."""
    sizes: dict[str, int] = {}
    for symbol in symbols:
        local = re.fullmatch(r"_ZZ(.+)E(?:\d+\w+)", symbol.name)
        if local and not symbol.name.startswith("_ZGV"):
            sizes[local[1]] = sizes.get(local[1], 0) + symbol.size
    return sizes


def static_shared_of(kernel: str, symbols: list[SharedSymbol]) -> int:
    """Bytes that a kernel declares by itself, at least: functions that it calls are not counted."""
    base = re.split(r"[<(\s]", kernel.strip().lstrip("&("))[0].split("::")[-1]
    sizes = [size for name, size in static_shared(symbols).items() if function_name(name).split("::")[-1] == base]
    return min(sizes, default=0)


def function_name(mangled: str) -> str:
    """The name of a function, with its namespaces, from its mangled one behind the "_Z".

    >>> function_name("3addIfEvPT_"), function_name("N2my4scaleEPf")
    ('add', 'my::scale')
    """
    rest, parts = mangled.lstrip("NL"), []
    while found := re.match(r"L?(\d+)", rest):
        end = found.end() + int(found[1])
        parts.append(rest[found.end() : end])
        rest = rest[end:]
        if not mangled.startswith("N"):
            break
    return "::".join(parts)


def _bound(source: str, plain: str, function: Function) -> str:
    """The first argument of a kernel's __launch_bounds__; empty if it has none."""
    found = BOUNDS.search(plain, function.start, function.body)
    if not found:
        return ""
    end = closing_bracket(plain, found.end() - 1)
    return (split_list(source[found.end() : end - 1]) or [""])[0]


def _template_end(plain: str, opening: int) -> int:
    """Behind the bracket that closes a template's list of parameters."""
    depth = 0
    for i in range(opening, len(plain)):
        depth += (plain[i] == "<") - (plain[i] == ">")
        if depth == 0:
            return i + 1
    return opening
