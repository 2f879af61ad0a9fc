"""Which statements of a backward function compute no gradient, and so need no forward line.

The rule looks at how a statement is written. An expression computes no numbers if it is put
together of

    names, attributes, indices, constants, tuples, and a choice between them (a if b else c)
    calls of the functions in BOOKKEEPING: what is saved, types, rows of an array, room for numbers,
    checks, and `complete`, which says that the gradients of a section are there
    arithmetic with what is known of shapes alone: N, C = normed.shape; 1 / C

A statement is bookkeeping if it assigns such an expression, calls such a function, returns such an
expression, or deletes, raises or passes. Three kinds need a partner nevertheless, because they may
hide a gradient:

    dx = ...      for a name x of forward; room (`empty`) may be made for it, and a gradient that
                  came in as an argument may get another dtype or be cut into rows
    return dy     for a gradient that came in and was not computed with since
    x += ...      whatever is on the right
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from minillm.web.read.quotations import COMPOUND, header

ROOM = {"empty", "empty_like", "room_for_gradients"}
SAME_NUMBERS = {"upcast", "downcast", "contiguous", "reshape", "astype", "quick_to_transpose"}
BOOKKEEPING = {
    *ROOM, *SAME_NUMBERS,
    "zeros", "zeros_like", "ones", "full", "array_module", "int32", "len", "list", "zip", "enumerate", "range",
    "reversed", "items", "take_saved", "grad_buffer", "empty_gradient", "grad_place", "grad_to_add_to", "pop", "check_backward",
    "layout_of", "split_qkv", "check_readers", "complete",
}  # fmt: skip
SHAPES = {"shape", "ndim", "size"}
PUT_TOGETHER = (
    ast.Attribute, ast.Subscript, ast.Slice, ast.Starred, ast.Tuple, ast.List, ast.Dict, ast.JoinedStr,
    ast.FormattedValue, ast.GeneratorExp, ast.ListComp, ast.DictComp,
)  # fmt: skip
MODULES = {"math", "np", "xp"}  # whose functions have no other arguments than those in the brackets
CLOSING = (ast.Delete, ast.Raise, ast.Pass, ast.Return)


@dataclass
class Bookkeeping:
    """The rule, for the statements of one backward function, which are handed to it in order.

    forward_names: all names of the forward function. incoming: the gradients that are arguments.
    """

    forward_names: set[str]
    incoming: set[str]
    _shapes: set[str] = field(default_factory=set)  # names that hold what is known of shapes
    _raw: set[str] = field(default_factory=set)  # names that hold a gradient as it came in

    def __post_init__(self):
        self._raw |= self.incoming

    def needs_partner(self, statement: ast.stmt, covered: bool) -> bool:
        """Whether a statement needs a forward line. covered: whether a comment covers it."""
        needs = self._needs_partner(statement)
        for target, value in assignments(statement):
            known, raw = self._is_shape(value), bool(self._carried(value) & self._raw) and not covered
            for name in stored_names(target):
                (self._shapes.add if known else self._shapes.discard)(name)
                (self._raw.add if raw else self._raw.discard)(name)
        return needs

    def handed_on(self, value: ast.expr) -> set[str] | None:
        """The names whose numbers an expression hands on; None for one that computes numbers."""
        return self._carried(value) if self._is_bookkeeping(value) else None

    def _needs_partner(self, statement: ast.stmt) -> bool:
        if isinstance(statement, COMPOUND):
            return self._header_needs_partner(statement)
        if isinstance(statement, ast.Assign):
            return any(
                not self._is_bookkeeping(value) or self._hides_gradient(target, value)
                for target, value in assignments(statement)
            )
        if isinstance(statement, ast.Return):
            value = statement.value
            return value is not None and (not self._is_bookkeeping(value) or bool(self._carried(value) & self._raw))
        if isinstance(statement, ast.Expr):
            return not self._is_bookkeeping(statement.value)
        return not isinstance(statement, CLOSING)

    def _header_needs_partner(self, statement: ast.stmt) -> bool:
        """Of a compound statement without its blocks: one that gives a name to what it computes."""
        if any(isinstance(part, ast.NamedExpr) for node in header(statement) for part in ast.walk(node)):
            return True
        for target, value in assignments(statement):
            computes = not self._is_bookkeeping(value) and _names_in(value) & self._raw
            if computes or any(map(self._is_gradient, stored_names(target))):
                return True
        return False

    def _is_gradient(self, name: str) -> bool:
        return name.startswith("d") and name[1:] in self.forward_names

    def _hides_gradient(self, target: ast.expr, value: ast.expr) -> bool:
        names = [name for name in stored_names(target) if self._is_gradient(name)]
        if not names or _makes_room(value):
            return False
        return not (names[0] in self.incoming and _same_numbers(value) == names[0])

    def _is_bookkeeping(self, node: ast.AST) -> bool:
        """Whether an expression computes no numbers but of shapes."""
        if isinstance(node, (ast.Name, ast.Constant)) or self._is_shape(node):
            return True
        if isinstance(node, ast.Call):
            if _called(node) not in BOOKKEEPING:
                return False
            receiver = [node.func.value] if isinstance(node.func, ast.Attribute) else []
            given = [keyword.value for keyword in node.keywords]
            written = any(keyword.arg == "out" for keyword in node.keywords)
            return not written and all(map(self._is_bookkeeping, (*receiver, *node.args, *given)))
        if isinstance(node, ast.IfExp):
            named = any(isinstance(part, ast.NamedExpr) for part in ast.walk(node.test))
            return not named and self._is_bookkeeping(node.body) and self._is_bookkeeping(node.orelse)
        return isinstance(node, PUT_TOGETHER) and all(map(self._is_bookkeeping, _parts(node)))

    def _is_shape(self, node: ast.AST) -> bool:
        """Whether an expression is made of shapes, lengths and constants alone."""
        if isinstance(node, ast.Name):
            return node.id in self._shapes
        if isinstance(node, ast.Attribute):
            return node.attr in SHAPES
        if isinstance(node, ast.Call):
            plain = isinstance(node.func, ast.Name) or getattr(node.func.value, "id", None) in MODULES
            known = plain and bool(node.args) and not node.keywords and all(map(self._is_shape, node.args))
            return known or _called(node) == "len"
        if isinstance(node, ast.Subscript):
            return self._is_shape(node.value)
        return isinstance(node, ast.Constant) or (
            isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Tuple, ast.Slice, ast.JoinedStr, ast.FormattedValue))
            and all(map(self._is_shape, _parts(node)))
        )

    def _carried(self, node: ast.AST) -> set[str]:
        """The names whose numbers an expression of bookkeeping hands on."""
        if isinstance(node, ast.Name):
            return {node.id}
        if self._is_shape(node) or isinstance(node, ast.Attribute) and node.attr == "dtype":
            return set()
        if isinstance(node, ast.Call) and _called(node) in BOOKKEEPING:
            if _called(node) not in SAME_NUMBERS:
                return set()
            method = isinstance(node.func, ast.Attribute)
            return self._carried(node.func.value if method else node.args[0])
        if isinstance(node, ast.IfExp):
            return self._carried(node.body) | self._carried(node.orelse)
        return set().union(*map(self._carried, _parts(node)))


def stored_names(target: ast.AST) -> list[str]:
    """The names that an assignment to `target` changes: g in g[i], and in g.value."""
    if isinstance(target, (ast.Tuple, ast.List)):
        return [name for part in target.elts for name in stored_names(part)]
    while isinstance(target, (ast.Attribute, ast.Subscript, ast.Starred)):
        target = target.value
    return [target.id] if isinstance(target, ast.Name) else []


def assignments(statement: ast.stmt) -> list[tuple[ast.expr, ast.expr]]:
    """Target and value, one by one where tuples of equal length are assigned; of a loop its
    variable and what it goes through.
    """
    if isinstance(statement, ast.For):
        return [(statement.target, statement.iter)]
    if isinstance(statement, ast.With):
        return [(item.optional_vars, item.context_expr) for item in statement.items if item.optional_vars]
    if not isinstance(statement, ast.Assign):
        return [(statement.target, statement.value)] if isinstance(statement, ast.AugAssign) else []
    pairs = []
    for target in statement.targets:
        both = (target, statement.value)
        if all(isinstance(part, ast.Tuple) for part in both) and len({len(part.elts) for part in both}) == 1:
            pairs += zip(target.elts, statement.value.elts)
        else:
            pairs.append(both)
    return pairs


def _names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _makes_room(value: ast.expr) -> bool:
    if isinstance(value, ast.GeneratorExp):
        return _makes_room(value.elt)
    return isinstance(value, ast.Call) and _called(value) in ROOM


def _same_numbers(value: ast.expr) -> str | None:
    """The name whose numbers an expression is, in another type or cut into rows."""
    while isinstance(value, ast.Call) and _called(value) in SAME_NUMBERS:
        value = value.func.value if isinstance(value.func, ast.Attribute) else value.args[0]
    return value.id if isinstance(value, ast.Name) else None


def _called(call: ast.Call) -> str | None:
    return getattr(call.func, "id", None) or getattr(call.func, "attr", None)


def _parts(node: ast.AST) -> list[ast.AST]:
    """The expressions directly below a node."""
    below = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.expr, ast.Slice)):
            below.append(child)
        elif isinstance(child, (ast.comprehension, ast.keyword)):
            below += _parts(child)
    return below
