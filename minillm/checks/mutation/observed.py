"""What happens in the functions of a module while something calls them: the lines that run, and
what the names there mean.

A name can only be mistaken for another one that has an array of the same shape, or a number of the
same type. Which they are is seen by running the function once and looking at its local names, line
by line. Names for one and the same array, such as `ds = dp`, are not mistaken for each other.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from minillm.checks.mutation.source import functions_of
from minillm.layers.layer import Layer, Parameter

MOST = 8  # times that a line is looked at; later ones only count as run


@dataclass
class Observed:
    """lines: line of the file -> what each time was seen there, name -> (kind, identity)."""

    lines: dict[int, list[dict[str, tuple]]] = field(default_factory=dict)

    def ran(self, line: int, end: int | None = None) -> bool:
        """Whether one of the lines from `line` to `end` has run."""
        return any(each in self.lines for each in range(line, (end or line) + 1))

    def alike(self, line: int, name: str) -> list[str]:
        """The names that mean something of the same kind as `name`, each time that the line ran,
        and something else at least once.
        """
        times = self.lines.get(line, [])
        if not times or any(name not in names for names in times):
            return []
        found = []
        for other in sorted(set.intersection(*(set(names) for names in times)) - {name}):
            same_kind = all(names[other][0] == names[name][0] for names in times)
            if same_kind and any(names[other][1] != names[name][1] for names in times):
                found.append(other)
        return found


def observe(module: types.ModuleType, names: list[str], call: Callable[[], object]) -> Observed:
    """What happens in the functions `names` of a module during `call()`.

    names: as in `functions_of`. Raises what `call` raises.
    """
    functions = functions_of(module)
    spans = [(functions[name].lineno, functions[name].end_lineno) for name in names]
    observed, file = Observed(), module.__file__

    def on_call(frame, event, argument):
        if frame.f_code.co_filename != file:
            return None
        return on_line if any(first <= frame.f_lineno <= last for first, last in spans) else None

    def on_line(frame, event, argument):
        if event == "line":
            seen = observed.lines.setdefault(frame.f_lineno, [])
            if len(seen) < MOST:
                seen.append(_described(frame.f_locals))
        return on_line

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        call()
    finally:
        sys.settrace(before)
    return observed


def dotted(node: ast.AST) -> str | None:
    """The name of a name or of an attribute of one, as `observe` has it: "x", "saved.x"; else None."""
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
