"""What happens in the functions of a module while a check calls them: the lines that run, the parts
of lines that do, and what the names there mean.

A name can only be mistaken for another one that has an array of the same shape, or a number of the
same type. Which they are is seen by running the function once and looking at its local names, line
by line. Names for one and the same array, such as `ds = dp`, are not mistaken for each other.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from minillm.checks.mutation.places import Place, places_in
from minillm.checks.mutation.source import Source, source_of
from minillm.layers.layer import Layer, Parameter

COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")  # frames of their own until Python 3.11
NOTE = "_note_of_an_expression"
MOST = 8  # times that a line is looked at; later ones only count as run


@dataclass
class Observed:
    """lines: line of the file -> what each time was seen there, name -> (kind, identity).
    passed_over: expressions in lines that ran which were not computed, as one side of an `if`.
    """

    lines: dict[int, list[dict[str, tuple]]] = field(default_factory=dict)
    passed_over: set[ast.AST] = field(default_factory=set)

    def ran(self, line: int, end: int | None = None) -> bool:
        """Whether one of the lines from `line` to `end` has run."""
        return any(each in self.lines for each in range(line, (end or line) + 1))

    def alike(self, line: int, name: str) -> list[str]:
        """The names that mean something of the same kind as `name`, each time that the line ran,
        and something else at least once; of several names for one thing the shortest.
        """
        times = self.lines.get(line, [])
        if not times or any(name not in names for names in times):
            return []
        known = [tuple(names[name][1] for names in times)]
        found = []
        for other in sorted(set.intersection(*map(set, times)) - {name}, key=lambda text: (len(text), text)):
            meant = tuple(names[other][1] for names in times)
            if meant not in known and all(names[other][0] == names[name][0] for names in times):
                found.append(other)
                known.append(meant)
        return found


def observe(module: types.ModuleType, names: list[str], check: Callable[[types.ModuleType], object]) -> Observed:
    """What happens in the functions `names` of a module during `check(a copy of the module)`.

    names: as in `functions_of`. Raises what `check` raises.
    """
    source = source_of(module)
    functions = [source.functions[name] for name in names]
    spans = [(function.lineno, function.end_lineno) for function in functions]
    observed = Observed()
    copy, computed = _with_notes(source, functions)

    def on_call(frame, event, argument):
        if frame.f_code.co_filename != source.file:
            return None
        return on_line if any(first <= frame.f_lineno <= last for first, last in spans) else None

    def on_line(frame, event, argument):
        if event == "line":
            seen = observed.lines.setdefault(frame.f_lineno, [])
            if len(seen) < MOST and frame.f_code.co_name not in COMPREHENSIONS:
                seen.append(_described(frame.f_locals))
        return on_line

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        check(copy)
    finally:
        sys.settrace(before)
    observed.passed_over = {place.node for index, place in enumerate(_optional(functions)) if index not in computed}
    return observed


def _with_notes(source: Source, functions: list[ast.AST]) -> tuple[types.ModuleType, set[int]]:
    """A copy of the module that notes which expressions are computed, of those that need not be."""
    computed: set[int] = set()
    places = list(_optional(functions))
    for index, place in reversed(list(enumerate(places))):  # the inner ones first
        note = ast.Call(ast.Name(NOTE, ast.Load()), [ast.Constant(index)], [])
        noted = ast.Subscript(ast.Tuple([note, place.node], ast.Load()), ast.Constant(1), ast.Load())
        place.put(ast.copy_location(noted, place.node))
    try:
        statements = {source.statement_with(function) for function in functions}
        codes = {statement: source.compiled(statement) for statement in statements}
    finally:
        for place in places:
            place.put(place.node)
    return source.copy(codes, **{NOTE: computed.add}), computed


def _optional(functions: list[ast.AST]) -> Iterator[Place]:
    """The expressions that are computed in some runs of their line only."""
    for function in functions:
        for place in places_in(function):
            is_side = isinstance(place.parent, ast.IfExp) and place.field in ("body", "orelse")
            is_later = isinstance(place.parent, ast.BoolOp) and place.index
            is_element = isinstance(place.parent, (ast.ListComp, ast.GeneratorExp)) and place.field == "elt"
            if is_side or is_later or is_element:
                yield place


def dotted(node: ast.AST) -> str | None:
    """The name of a name, or of an attribute of one, as "x" and "saved.x"; else None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


def _described(names: dict) -> dict[str, tuple]:
    """name -> (kind, identity) of what can be mistaken for another; attributes of `self` and of
    named tuples as "self.x".
    """
    found = {}
    for name, value in list(names.items()):
        if (description := _description(value)) is not None:
            found[name] = description
        inner = vars(value) if name == "self" else value._asdict() if hasattr(value, "_fields") else {}
        for attribute, each in inner.items():
            if (description := _description(each)) is not None:
                found[f"{name}.{attribute}"] = description
    return found


def _description(value) -> tuple | None:
    if isinstance(value, np.ndarray):
        memory = value.__array_interface__["data"][0], value.strides
        return ("array", value.dtype.kind, value.shape), memory
    if isinstance(value, (bool, np.bool_)):
        return ("bool",), bool(value)
    if isinstance(value, (int, float, np.integer, np.floating)):
        return ("integer" if isinstance(value, (int, np.integer)) else "float",), float(value)
    if isinstance(value, slice):
        return ("slice",), (value.start, value.stop, value.step)
    if isinstance(value, Parameter):
        return ("parameter", value.peek().shape), id(value)
    if isinstance(value, Layer):
        return ("layer", type(value).__name__, tuple(p.peek().shape for p in value.parameters().values())), id(value)
    return None
