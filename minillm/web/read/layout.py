"""How the lines of an operation are laid out: functions as columns of statements, level by rows.

Pair of functions, forward and backward     `columns`: the parts of each, with the row that they are in
CUDA source                                 `functions`: its functions, and which forward lines their statements are tied to
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from minillm.web.read.operation import Operation, Place, Source, Tie, sources
from minillm.web.read.quotations import is_docstring
from minillm.web.read.rows import Row

MARK = "// forward: "
RETURNED = "return"
ASSIGNMENTS = (ast.Assign, ast.AugAssign)
HEADS = (ast.If, ast.For, ast.While, ast.With, ast.Try)


@dataclass(frozen=True)
class Part:
    """Lines one after another.

    identity: of a statement that can be pointed at, "" for lines to read.

    lights: the identities of the statements that it is tied to. computes: the names that it
    assigns, or whose formula it quotes. row: where it is in its column, from 1. function: its name.
    """

    function: str
    first: int
    lines: tuple[str, ...]
    row: int = 1
    identity: str = ""
    lights: tuple[str, ...] = ()
    computes: tuple[str, ...] = ()

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.first + len(self.lines) - 1


@dataclass(frozen=True)
class Kernel:
    """A function of a CUDA source by its name, or, without one, what is before the first."""

    source: Source
    name: str
    parts: tuple[Part, ...]
    is_global: bool


# ------------------------------------------------------------------------------------------------- forward and backward


def columns(
    rows: list[Row], forward: Source, backward: Source | None, ties: list[Tie]
) -> tuple[list[Part], list[Part]]:
    """The parts of a forward and a backward function, each in the order of its file.

    rows: of the pair. Row 1 has what is before the first statement.
    """
    level = _level(rows)
    left, right = (
        {place: at for at, row in enumerate(level, 2) for place in getattr(row, side)}
        for side in ("forward", "backward")
    )
    alone = {place for row in rows if not (row.forward and row.backward) for place in (*row.forward, *row.backward)}
    left = _kept_together(forward, left, alone)
    right = _kept_together(backward, right, alone) if backward else {}
    return _parts(forward, left, ties), _parts(backward, right, ties) if backward else []


def identity(place: Place) -> str:
    """Of the statement at a place; lines are those of one file.

    >>> identity(Place("attend", 12, 13))
    'L12'
    """
    return f"L{place.first}"


def _level(rows: list[Row]) -> list[Row]:
    """The rows, where those one after another that tie nothing are one."""
    level: list[Row] = []
    was_paired = True
    for row in rows:
        is_paired = bool(row.forward and row.backward)
        if not is_paired and not was_paired:
            before = level.pop()
            row = Row(before.forward + row.forward, before.backward + row.backward)
        level.append(row)
        was_paired = is_paired
    return level


def _kept_together(source: Source, row_of: dict[Place, int], alone: set[Place]) -> dict[Place, int]:
    """The rows of places, where what ties nothing is not taken out of its context.

    The head of a block is in the row of what it begins; a statement between two of one row is in
    it.
    """
    heads = {node.lineno for node in ast.walk(source.tree) if isinstance(node, HEADS)}
    places = sorted(row_of, key=lambda place: (place.first, place.last))
    rows = [None if place in alone else row_of[place] for place in places]
    for at in reversed(range(len(places) - 1)):
        if rows[at] is None and places[at].first in heads:
            rows[at] = rows[at + 1]
    before = None
    for at, row in enumerate(rows):
        if row is None:
            after = next((each for each in rows[at:] if each is not None), None)
            rows[at] = before if before is not None and before == after else None
        before = rows[at] if rows[at] is not None else before
    return {place: row_of[place] if row is None else row for place, row in zip(places, rows)}


def _parts(source: Source, row_of: dict[Place, int], ties: list[Tie]) -> list[Part]:
    lights = {tie.backward: () for tie in ties}
    for tie in ties:
        lights[tie.backward] += tuple(map(identity, tie.forward))
    computed = _names_by_line(source)
    parts: list[Part] = []
    done = source.first
    for place in sorted(row_of, key=lambda place: (place.first, place.last)):
        if place.last < done:  # a second statement on the same line
            continue
        if not parts:
            done = _end_of_head(source)
            parts += _between(source, source.first, done, 1)
        parts += _between(source, done, place.first, row_of[place])
        first = max(place.first, done)
        lines = source.lines[first - source.first : place.last - source.first + 1]
        own = tuple(dict.fromkeys(lights.get(place, ())))
        names = computed.get(place.first, ())
        parts.append(Part(source.function, first, lines, row_of[place], identity(place), own, names))
        done = place.last + 1
    return [*parts, *_between(source, done, source.last + 1, max(row_of.values(), default=1))]


def _end_of_head(source: Source) -> int:
    """The line after a function's `def` and docstring: a comment below belongs to its statement."""
    before, lines = source.tree.body[0], source.lines
    if is_docstring(before):
        return before.end_lineno + 1
    at = before.lineno
    while lines[at - 1 - source.first].lstrip().startswith("#"):
        at -= 1
    return at


def _names_by_line(source: Source) -> dict[int, tuple[str, ...]]:
    """The first line of a statement -> the names that it assigns."""
    return {node.lineno: _assigned(node) for node in ast.walk(source.tree) if isinstance(node, ASSIGNMENTS)}


def _assigned(node: ast.stmt) -> tuple[str, ...]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    stored = [each for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return tuple(dict.fromkeys(each.id for each in stored))


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
    starts = [at for at in range(len(source.lines)) if _opens(source.lines, at)]
    starts = [at for at in starts if at == 0 or _name(_passage(source.lines, at))]  # constants stay with what is above
    found = []
    for at, start in enumerate(starts):
        stop = starts[at + 1] if at + 1 < len(starts) else len(source.lines)
        lines = _without_blank_end(source.lines[start:stop])
        parts = _kernel_parts(source, start, lines, number, assigned)
        found.append(Kernel(source, _name(lines), tuple(parts), any("__global__" in line for line in lines)))
    return found


def assigned_names(operation: Operation, derived: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Every name that a forward function computes -> the identities of the statements that do so.

    derived: spelling in the derivation -> name in the code; these are names here, too, without
    their indices: n of n_i. Where no statement computes y, it is what is returned. Room that is
    only made, with `empty`, does not count.
    """
    found: dict[str, tuple[str, ...]] = {}
    code = sources(operation)
    names = [pair.forward for pair in operation.pairs]
    for name in [each for each in names if each[0].islower()] or names:  # functions, or the methods of a layer
        for node in ast.walk(code[name].tree):
            here = (identity(Place(name, node.lineno, node.end_lineno)),) if isinstance(node, ast.stmt) else ()
            if isinstance(node, ASSIGNMENTS) and "empty" not in ast.unparse(node.value):
                for each in _assigned(node):
                    found[each] = (*found.get(each, ()), *here)
            elif isinstance(node, ast.Return) and code[name].tree.body[-1] is node:
                found[RETURNED] = (*found.get(RETURNED, ()), *here)
    returned = found.pop(RETURNED, ())
    return (
        {"y": returned} | {_base(spelling): found[name] for spelling, name in derived.items() if name in found} | found
    )


def _base(name: str) -> str:
    """A name of a formula without its indices.

    >>> _base("n_i"), _base("s(g)")
    ('n', 's')
    """
    return re.split(r"[_(]", name.strip())[0]


def _quoted_names(comment: str) -> list[str]:
    """The names that a comment's formulas define, and their small letters: Y is y in Python.

    >>> _quoted_names("// forward: n_i = x_i r; Y = P V: r = 1 / rms")
    ['n', 'n', 'Y', 'y']
    """
    formulas = comment.removeprefix(MARK).split(": ")[0].split(";") if comment.startswith(MARK) else []
    bases = [_base(formula.partition("=")[0]) for formula in formulas if "=" in formula]
    return [name for base in bases for name in (base, base.lower())]


def _opens(lines: tuple[str, ...], at: int) -> bool:
    """Whether a function, or the comment above one, begins at a line: after a blank one, at the
    margin.
    """
    return at == 0 or (lines[at - 1] == "" and lines[at] != "" and not lines[at].startswith((" ", "#include")))


def _passage(lines: tuple[str, ...], at: int) -> tuple[str, ...]:
    """The lines from one up to the next blank one."""
    return lines[at : next((stop for stop in range(at, len(lines)) if not lines[stop]), len(lines))]


def _name(lines: tuple[str, ...]) -> str:
    """The name of the function or struct that is defined.

    >>> _name(("// y", "template <int D>", "__global__ void f(const float* x,", "       int n) {"))
    'f'
    """
    declared = " ".join(line for line in lines if not line.startswith(("//", "#"))).partition("{")[0]
    code = re.sub(r"__launch_bounds__\([^)]*\)|template <[^>]*>", "", declared)
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
            names += _quoted_names(lines[at].strip())
            at += 1
        end = _covered(lines, at, indent)
        lights = tuple(dict.fromkeys(one for name in names for one in assigned.get(name, ())))
        parts += _kernel_part(source, start, lines, done, at, "")
        computes = tuple(dict.fromkeys(names))
        parts += _kernel_part(source, start, lines, at, end, f"K{number}-{start + at + 1}", lights, computes)
        done = at = end
    return [*parts, *_kernel_part(source, start, lines, done, len(lines), "")]


def _kernel_part(source: Source, start: int, lines, first: int, stop: int, identity: str, lights=(), computes=()):
    part = Part(source.function, start + first + 1, tuple(lines[first:stop]), 1, identity, lights, computes)
    return [part] if part.lines else []


def _covered(lines: tuple[str, ...], at: int, indent: int) -> int:
    """The end of what a comment covers: up to the next such comment in its block, or the block's
    end.
    """
    end = at
    while end < len(lines) and lines[end].strip():
        depth = len(lines[end]) - len(lines[end].lstrip())
        if depth < indent and not lines[end].startswith("#"):
            break
        if lines[end].strip().startswith(MARK) or end > at and depth == indent and lines[end].strip().startswith("//"):
            break
        end += 1
    return end
