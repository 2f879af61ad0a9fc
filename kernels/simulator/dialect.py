"""What g++ takes only in another way than CUDA has it: arrays in shared memory, alignments."""

from __future__ import annotations

import re

from minillm.kernels.simulator.source import closing_bracket, functions, masked

EXTERN_SHARED = re.compile(
    r"\b(?:extern\s+__shared__|__shared__\s+extern)\s+(?:(?:__align__|alignas)\s*\([^;{}]*?\)\s*)?"
    r"(?P<type>[\w:<>,\s]+?)\s+(?:(?:__align__|alignas)\s*\([^;{}]*?\)\s*)?(?P<name>\w+)\s*\[\s*\]\s*;"
)


def with_pointers_to_shared(source: str) -> str:
    """The source with a pointer in place of each `extern __shared__` array inside of a function
    whose name means arrays of different types, or of a template's type: g++ takes them for one
    array. Line numbers stay.
    """
    plain = masked(source)
    found = list(EXTERN_SHARED.finditer(plain))
    types: dict[str, set[str]] = {}
    for each in found:
        types.setdefault(each["name"], set()).add(" ".join(each["type"].split()))
    parameters = set(re.findall(r"\b(?:typename|class)\s+(\w+)", plain))
    inside = [(f.body, f.end) for f in functions(source)]
    for each in reversed(found):
        several = len(types[each["name"]]) > 1 or parameters & set(re.findall(r"\w+", each["type"]))
        if several and any(start < each.start() < end for start, end in inside):
            pointer = f"{each['type']}* {each['name']} = reinterpret_cast<{each['type']}*>(minillm_dynamic_shared);"
            lines = "\n" * each[0].count("\n")
            source = source[: each.start()] + " ".join(pointer.split()) + lines + source[each.end() :]
    return source


def with_alignment_first(source: str) -> str:
    """The source with `alignas(...) __shared__` in place of `__shared__ alignas(...)`: for g++ an
    alignment comes before the words that it belongs to.
    """
    plain = masked(source)
    for found in reversed(list(re.finditer(r"\b__shared__\s+(?=alignas\s*\()", plain))):
        end = closing_bracket(plain, plain.index("(", found.end()))
        source = source[: found.start()] + source[found.end() : end] + " " + found[0] + source[end:]
    return source
