"""The places of a function where something can be changed, and how they read before and after."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 90  # characters of a text, if a shorter part of the statement holds the whole place
NOT_CHANGED = (ast.Raise, ast.Assert, ast.Delete, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom, ast.Pass)
# Fields that say nothing of what is computed: annotations, decorators, default values.
PASSED_OVER = {"annotation", "returns", "decorator_list", "defaults", "kw_defaults", "type_params", "type_comment"}

# What says how numbers are kept, and not which they are: by the keyword, by the function.
HOW_KEPT = ("dtype", "order", "copy", "kind", "casting", "like", "optimize", "subok", "itemsize", "device", "flags")
LIBRARY_OF = ("array_module", "device_of", "dispatch", "kernel_for", "isinstance", "is_bfloat16", "empty_like", "empty")
LIKE = ("astype", "view")


@dataclass(frozen=True, eq=False)
class Place:
    """A node of a function's tree, and where it hangs: `parent.field`, or `parent.field[index]`.

    above: the place that holds this one. line: where the statement around it begins.
    """

    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None
    above: Place | None
    line: int

    def put(self, node: ast.AST) -> None:
        """Hang another node there."""
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node

    def texts(self, replacement: ast.AST) -> tuple[str, str]:
        """(before, after): the statement, or as much of it around the place as is short."""
        held = self
        while held.above is not None and not isinstance(held.node, ast.stmt) and len(text(held.above.node)) <= LONGEST:
            held = held.above
        before = text(held.node)
        if held is self:
            return before, text(replacement)
        self.put(replacement)
        try:
            return before, text(held.node)
        finally:
            self.put(self.node)


def places_in(function: ast.AST, first_line: int = 0) -> Iterator[Place]:
    """Every place of a function from `first_line` on, outermost first; without docstrings,
    annotations, errors that are raised and assertions.
    """
    fields = ("body",)
    for name in fields:
        yield from _below(function, name, None, getattr(function, "lineno", 0), first_line)


def text(node: ast.AST) -> str:
    """A node as source text on one line; of a block its first line alone."""
    if isinstance(node, ast.stmt):
        line = ast.unparse(ast.fix_missing_locations(node)).partition("\n")[0]
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Tuple):  # in parentheses by Python 3.10 alone
            written = ast.unparse(target)
            line = line.replace(written, written.removeprefix("(").removesuffix(")"), 1)
        return line
    return " ".join(ast.unparse(node).split())


def _below(parent: ast.AST, field: str, above: Place | None, line: int, first_line: int) -> Iterator[Place]:
    value = getattr(parent, field)
    if isinstance(value, list) and value and isinstance(value[-1], ast.Raise):
        return  # what leads to an error alone
    for index, node in enumerate(value) if isinstance(value, list) else ((None, value),):
        if not isinstance(node, ast.AST) or isinstance(node, NOT_CHANGED) or _is_docstring(node):
            continue
        if isinstance(node, (ast.stmt, ast.ExceptHandler)):
            line = node.lineno
            if node.end_lineno < first_line:
                continue
        if index and field == "args" and called(parent) == "downcast":  # whose dtype it is cast to
            continue
        place = Place(node, parent, field, index, above, line)
        if line >= first_line:
            yield place
        for name in node._fields:
            if name not in PASSED_OVER and not _decides_no_number(node, name):
                yield from _below(node, name, place, line, first_line)


def _decides_no_number(node: ast.AST, field: str) -> bool:
    """Whether a part of an expression says how numbers are kept, and not which they are."""
    if isinstance(node, ast.Call):
        return called(node) in LIBRARY_OF or (field == "args" and called(node) in LIKE)
    if isinstance(node, ast.keyword):
        return node.arg in HOW_KEPT
    return isinstance(node, ast.Attribute) and node.attr in HOW_KEPT


def called(node: ast.Call) -> str:
    """The last part of the name of the function that is called."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
