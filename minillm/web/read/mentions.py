"""Whether the forward lines that a comment quotes can be what a statement below it differentiates.

A comment covers the statements down to the next one in its block. Where one of two is taken out,
the statements below it are left to the other, which quotes lines of something else. Two things show
it, by the names alone:

    dx = ...             x is a name of forward: what is quoted has x, or another name of the same
                         numbers, as rows in rows = upcast(x).reshape(-1, C)
    mlp.backward(dy)     mlp.forward is called in forward: what is quoted calls it. Likewise
                         norm_backward(dy) with norm_forward(x) or norm(x), backward(dy) with
                         forward(x), and launch("norm_backward") with launch("norm_forward")

The first asks nothing of a statement that goes on with a gradient (dx *= r, dx = dx + ds), that
only takes it out of what was saved, or that calls a backward function.
"""

from __future__ import annotations

import ast

from minillm.web.read.bookkeeping import Bookkeeping, assignments, stored_names
from minillm.web.read.operation import Source
from minillm.web.read.quotations import headed, header, leaves

_THROUGH = {"projected": "forward", "backward_onto": "backward"}  # of linear.py: methods of their first argument


class Mentions:
    """What the forward functions of a pair say. names: all names of theirs."""

    def __init__(self, forward: list[Source], names: set[str]):
        self._names = names
        self._same = _same_numbers(forward)
        self._called = set().union(*(_called(source.tree, "forward") for source in forward))
        self._rule = Bookkeeping(names, set())

    def missing(self, statement: ast.stmt, quoted: list[ast.stmt]) -> str | None:
        """What the quoted forward statements would have if the statement differentiated them: a
        name, or "mlp.forward(...)". None where nothing is missing.
        """
        parts = [part for node in quoted for part in _own_parts(node)]
        forward = set().union(*(_called(part, "forward") for part in parts))
        for part in _own_parts(statement):
            for name in sorted(_called(part, "backward") & self._called - forward):
                return f"{name}.forward(...)" if "." in name else f"{name or 'forward'}(...)"
        names = self._with_same({node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)})
        for gradient in self._begun(statement):
            if gradient[1:] not in names:
                return gradient[1:]
        return None

    def _begun(self, statement: ast.stmt) -> list[str]:
        """The gradients of names of forward that a statement is the first to compute."""
        if headed(statement) or isinstance(statement, ast.AugAssign):
            return []
        return [
            name
            for target, value in assignments(statement)
            if self._computes(value)
            for name in stored_names(target)
            if name.startswith("d") and name[1:] in self._names and name not in _read(value)
        ]

    def _computes(self, value: ast.expr) -> bool:
        """Whether an expression computes a gradient itself, or is one, such as in dx = dy."""
        if _called(value, "backward"):
            return False
        return self._rule.handed_on(value) is None or isinstance(value, ast.Name) and value.id.startswith("d")

    def _with_same(self, names: set[str]) -> set[str]:
        found, waiting = set(names), list(names)
        while waiting:
            new = self._same.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found


def _same_numbers(forward: list[Source]) -> dict[str, set[str]]:
    """Name -> names of the same numbers, in another type or cut into rows."""
    rule = Bookkeeping(set(), set())
    same: dict[str, set[str]] = {}
    plain = [node for source in forward for node in leaves(source.tree.body) if isinstance(node, ast.Assign)]
    for target, value in (pair for node in plain for pair in assignments(node)):
        for name in stored_names(target):
            for other in rule.handed_on(value) or ():
                same.setdefault(name, set()).add(other)
                same.setdefault(other, set()).add(name)
    return same


def _called(node: ast.AST, method: str) -> set[str]:
    """What is called forward, or backward, under a node: self.mlp of self.mlp.forward(x), gelu of
    gelu_forward(x) and of "gelu_forward", "" of forward(x). Of forward plain functions, too.
    """
    found = set()
    for part in ast.walk(node):
        name = ""
        if isinstance(part, ast.Call):
            if isinstance(part.func, ast.Attribute) and part.func.attr == method:
                found.add(ast.unparse(part.func.value))
                found.discard("self")  # a function of its own, which may compute anything
                continue
            name = getattr(part.func, "id", None) or getattr(part.func, "attr", "")
            if _THROUGH.get(name) == method:
                found.add(ast.unparse(part.args[0]))
                continue
            if name == method or method == "forward" and not name.endswith("_forward"):
                found.add(name.removesuffix(method))
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            name = part.value
        if name.endswith(f"_{method}"):
            found.add(name.removesuffix(f"_{method}"))
    return found


def _own_parts(node: ast.stmt) -> list[ast.AST]:
    """A statement, or the header of one that has blocks."""
    return header(node) if headed(node) else [node]


def _read(value: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
