"""How the lines of an operation are laid out: functions as columns of statements, level by rows.

Pair of functions, forward and backward     `columns`: the parts of each, with the row that they are in
CUDA source                                 `functions`: its functions, and which forward lines their statements are tied to
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

from minillm.web.read.operation import Operation, Pair, Place, Source, Tie, sources

QUOTED = re.compile(r"(?:^|, |; )(?:\w+ )?(\w+)(?:\[[^\]]*\])? \+?= ")  # the names that a kernel's `// forward:` assigns
MARK = "// forward: "


@dataclass(frozen=True)
class Part:
    """Lines one after another. identity: of a statement that can be pointed at, "" for lines to read.

    lights: the identities of the statements that it is tied to. row: where it is in its column, from
    1. function: its name.
    """

    function: str
    first: int
    lines: tuple[str, ...]
    row: int = 1
    identity: str = ""
    lights: tuple[str, ...] = ()

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.first + len(self.lines) - 1


@dataclass(frozen=True)
class Kernel:
    """A function of a CUDA source, or what is before the first. opening: its declaration in one line."""

    source: Source
    opening: str
    parts: tuple[Part, ...]
    is_global: bool


# ------------------------------------------------------------------------------------------------- forward and backward


def columns(rows: list, forward: Source, backward: Source | None, ties: list[Tie]) -> tuple[list[Part], list[Part]]:
    """The parts of a forward and a backward function, each in the order of its file.

    rows: of the pair, as `ties.rows` gives them. Row 1 has what is before the first statement.
    """
    left, right = (
        {place: at for at, row in enumerate(rows, 2) for place in getattr(row, side)} for side in ("forward", "backward")
    )
    return _parts(forward, left, ties), _parts(backward, right, ties) if backward else []


def identity(place: Place) -> str:
    """Of the statement at a place; lines are those of one file.

    >>> identity(Place("attend", 12, 13))
    'L12'
    """
    return f"L{place.first}"


def _parts(source: Source, row_of: dict[Place, int], ties: list[Tie]) -> list[Part]:
    lights = {tie.backward: () for tie in ties}
    for tie in ties:
        lights[tie.backward] += tuple(map(identity, tie.forward))
    parts, done = [], source.first
    for place in sorted(row_of, key=lambda place: (place.first, place.last)):
        if place.last < done:  # a second statement on the same line
            continue
        row = row_of[place] if parts else 1
        parts += _between(source, done, place.first, row)
        first = max(place.first, done)
        lines = source.lines[first - source.first : place.last - source.first + 1]
        own = tuple(dict.fromkeys(lights.get(place, ())))
        parts.append(Part(source.function, first, lines, row_of[place], identity(place), own))
        done = place.last + 1
    return [*parts, *_between(source, done, source.last + 1, max(row_of.values(), default=1))]


def _between(source: Source, start: int, stop: int, row: int) -> list[Part]:
    """The lines from start to before stop, as a part to read; nothing where there are none."""
    lines = source.lines[start - source.first : stop - source.first]
    return [Part(source.function, start, lines, row)] if lines else []


# ------------------------------------------------------------------------------------------------------------- kernels


def functions(source: Source, number: int, assigned: dict[str, tuple[str, ...]]) -> list[Kernel]:
    """The functions of a CUDA source in their order, each with the comment above it.

    number: of the source among those of the page. assigned: the names that forward assigns -> the
    identities of these statements. What follows `// forward: y = ...` is tied to them.
    """
    starts = [at for at, line in enumerate(source.lines) if _opens(source.lines, at)]
    found = []
    for at, start in enumerate(starts):
        stop = starts[at + 1] if at + 1 < len(starts) else len(source.lines)
        lines = _without_blank_end(source.lines[start:stop])
        opening = next((line for line in lines if not line.startswith(("//", "template", "#", "    "))), "")
        parts = _kernel_parts(source, start, lines, number, assigned)
        found.append(Kernel(source, _name(lines) or opening, tuple(parts), any("__global__" in line for line in lines)))
    return found


def assigned_names(operation: Operation, pairs: Iterable[Pair]) -> dict[str, tuple[str, ...]]:
    """Every name that a forward function assigns -> the identities of the statements that do so."""
    found: dict[str, tuple[str, ...]] = {}
    code = sources(operation)
    for pair in pairs:
        for node in ast.walk(code[pair.forward].tree):
            if isinstance(node, (ast.Assign, ast.AugAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                here = (identity(Place(pair.forward, node.lineno, node.end_lineno)),)
                for name in {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}:
                    found[name] = (*found.get(name, ()), *here)
    return found


def _opens(lines: tuple[str, ...], at: int) -> bool:
    """Whether a function, or the comment above one, begins at a line: after a blank one, at the margin."""
    return at == 0 or (lines[at - 1] == "" and lines[at] != "" and not lines[at].startswith((" ", "#include")))


def _name(lines: tuple[str, ...]) -> str:
    """The name of the function or struct that is defined.

    >>> _name(("// y", "template <int D>", "__global__ void f(const float* x,", "       int n) {"))
    'f'
    """
    code = " ".join(line for line in lines if not line.startswith(("//", "#", " ")) or "__launch" not in line)
    code = re.sub(r"__launch_bounds__\([^)]*\)|template <[^>]*>", "", code)
    named = re.search(r"(?:struct|class) (\w+)", code) or re.search(r"(\w+)\(", code)
    return named[1] if named else ""


def _without_blank_end(lines: tuple[str, ...]) -> tuple[str, ...]:
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def _kernel_parts(source: Source, start: int, lines: tuple[str, ...], number: int, assigned: dict) -> list[Part]:
    parts, done, at = [], 0, 0
    while at < len(lines):
        text = lines[at].strip()
        if not text.startswith(MARK):
            at += 1
            continue
        names, indent = [], len(lines[at]) - len(lines[at].lstrip())
        while at < len(lines) and lines[at].strip().startswith("//"):
            names += QUOTED.findall(lines[at].strip().removeprefix(MARK))
            at += 1
        end = _covered(lines, at, indent)
        lights = tuple(dict.fromkeys(one for name in names for one in assigned.get(name, ())))
        parts += _kernel_part(source, start, lines, done, at, "")
        parts += _kernel_part(source, start, lines, at, end, f"K{number}-{start + at + 1}", lights)
        done = at = end
    return [*parts, *_kernel_part(source, start, lines, done, len(lines), "")]


def _kernel_part(source: Source, start: int, lines, first: int, stop: int, identity: str, lights=()) -> list[Part]:
    part = Part(source.function, start + first + 1, tuple(lines[first:stop]), 1, identity, lights)
    return [part] if part.lines else []


def _covered(lines: tuple[str, ...], at: int, indent: int) -> int:
    """The end of what a comment covers: up to the next such comment in its block, or the block's end."""
    end = at
    while end < len(lines) and lines[end].strip():
        depth = len(lines[end]) - len(lines[end].lstrip())
        if depth < indent and not lines[end].startswith("#"):
            break
        if end > at and depth == indent and lines[end].strip().startswith("//"):
            break
        end += 1
    return end
