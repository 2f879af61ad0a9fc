"""The statements of a file: which names each one assigns or changes, what it multiplies, what it
reads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import CodeType

HEADERS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef, ast.ClassDef)  # statements with a body
VIEWS = ("transpose", "reshape", "swapaxes", "ravel", "view")  # methods whose result has the memory of their array


@dataclass(frozen=True)
class Written:
    """A place that a statement assigns or changes.

    text: as in the source, such as y or y[..., first]. code: its value. is_new: its memory is not
    filled yet, as after `empty_like`. is_view: it is a part of another array, and nothing is
    computed.
    """

    text: str
    code: CodeType
    is_new: bool = False
    is_view: bool = False


@dataclass(frozen=True)
class Product:
    """An expression `left @ right`.

    test, wanted: of the conditional expression around it; it is computed if bool(test) is `wanted`.
    pure: no operand calls a method of self, so that both can be computed once more.
    """

    left: CodeType
    right: CodeType
    tests: tuple[tuple[CodeType, bool], ...]
    pure: bool


class Statement:
    """A statement, or the header of one that has a body. first, last: its lines."""

    def __init__(self, node: ast.stmt, source: str, file: str):
        self.node, self._source, self._file = node, source, file
        self.first = node.lineno
        is_header = isinstance(node, HEADERS)
        self.last = max(node.lineno, node.body[0].lineno - 1) if is_header else node.end_lineno

    @cached_property
    def written(self) -> tuple[Written, ...]:
        """In the order of the source; a place once."""
        found = {each.text: each for each in self._written()}
        return tuple(found.values())

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The places that an assignment or a loop has at its left, in order."""
        return tuple(ast.get_source_segment(self._source, target) for target, _ in self._pairs())

    @cached_property
    def returned(self) -> tuple[ast.expr, ...]:
        """What a return statement returns, one by one; empty for any other statement."""
        value = self.node.value if isinstance(self.node, ast.Return) else None
        return tuple(value.elts) if isinstance(value, ast.Tuple) else (value,) if value else ()

    def is_end_of_loop(self, following: Statement | None) -> bool:
        """Whether it is the header of a `for` that found no further item: `following` runs then."""
        if not isinstance(self.node, ast.For):
            return False
        body = self.node.body
        return following is None or not body[0].lineno <= following.first <= body[-1].end_lineno

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """Its products `a @ b`, in the order of the source."""
        return tuple(self._products())

    @cached_property
    def reads(self) -> frozenset[str]:
        """The names that it reads."""
        return frozenset(n.id for n in self._walk() if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))

    def _walk(self) -> Iterator[ast.AST]:
        """All nodes but those of its body."""
        if isinstance(self.node, (ast.FunctionDef, ast.ClassDef, ast.Try)):
            return
        if isinstance(self.node, (ast.If, ast.While)):
            yield from ast.walk(self.node.test)
        elif isinstance(self.node, ast.For):
            yield from ast.walk(self.node.target)
            yield from ast.walk(self.node.iter)
        elif isinstance(self.node, ast.With):
            for item in self.node.items:
                yield from ast.walk(item)
        else:
            yield from ast.walk(self.node)

    def _pairs(self) -> Iterator[tuple[ast.expr, ast.expr | None]]:
        """(target, its value where the source has one for it alone)."""
        node = self.node
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _taken_apart(target, node.value)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and node.value:
            yield node.target, None
        elif isinstance(node, ast.For):
            yield from _taken_apart(node.target, None)
        elif isinstance(node, ast.With):
            for item in node.items:
                if item.optional_vars is not None:
                    yield from _taken_apart(item.optional_vars, None)

    def _written(self) -> Iterator[Written]:
        for target, value in self._pairs():
            is_name = isinstance(target, ast.Name)
            yield self._place(target, is_name and _is_new(value), is_name and _is_view(value))
        for node in self._walk():
            if isinstance(node, ast.NamedExpr):
                yield self._place(node.target)
            elif isinstance(node, ast.Call):
                changed = [keyword.value for keyword in node.keywords if keyword.arg == "out"]
                if isinstance(node.func, ast.Attribute) and node.func.attr == "at":  # np.add.at(array, places, values)
                    changed += node.args[:1]
                yield from (self._place(each) for each in changed if isinstance(each, (ast.Name, ast.Subscript)))

    def _place(self, target: ast.expr, is_new: bool = False, is_view: bool = False) -> Written:
        return Written(ast.get_source_segment(self._source, target), self._code(target), is_new, is_view)

    def _code(self, expression: ast.expr) -> CodeType:
        return compile(ast.unparse(expression), self._file, "eval")

    def _products(self) -> Iterator[Product]:
        tests: dict[ast.AST, tuple] = {}
        for node in self._walk():  # a node comes before those inside it
            above = tests.get(node, ())
            for child in ast.iter_child_nodes(node):
                tests[child] = above
            if isinstance(node, ast.IfExp):
                test = self._code(node.test)
                tests[node.body], tests[node.orelse] = (*above, (test, True)), (*above, (test, False))
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                pure = not any(_calls_self(n) for n in ast.walk(node))
                yield Product(self._code(node.left), self._code(node.right), above, pure)


@dataclass(frozen=True)
class File:
    """A source file by lines. statements: line -> the innermost statement there; functions: first
    line -> name.
    """

    path: Path
    statements: dict[int, Statement]
    functions: dict[int, str]


@lru_cache
def file_of(path: str) -> File:
    """The statements and functions of a file. Functions are named as "attend", "Linear.forward"."""
    source = Path(path).read_text(encoding="utf-8")
    statements: dict[int, Statement] = {}
    functions: dict[int, str] = {}

    def visit(body: list[ast.stmt], within: tuple[str, ...]) -> None:
        for node in body:
            statement = Statement(node, source, path)
            statements.update(dict.fromkeys(range(statement.first, statement.last + 1), statement))
            inside = within
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                inside = (*within, node.name)
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                functions[first] = ".".join(inside)
            for part in ("body", "orelse", "finalbody"):
                visit(getattr(node, part, []), inside)
            for handler in getattr(node, "handlers", []):
                visit(handler.body, inside)

    visit(ast.parse(source).body, ())
    return File(Path(path), statements, functions)


def _taken_apart(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    if not isinstance(target, (ast.Tuple, ast.List)):
        yield (target.value if isinstance(target, ast.Starred) else target), value
        return
    apart = isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)
    for index, each in enumerate(target.elts):
        yield from _taken_apart(each, value.elts[index] if apart else None)


def _root(value: ast.expr | None) -> ast.expr | None:
    """What an expression is a view of: x in x.T, x[i] and x.reshape(...)."""
    if isinstance(value, (ast.Attribute, ast.Subscript)):
        return _root(value.value)
    if isinstance(value, ast.IfExp):
        return _root(value.body)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in VIEWS:
        return _root(value.func.value)
    return value


def _is_new(value: ast.expr | None) -> bool:
    root = _root(value)
    if not isinstance(root, ast.Call):
        return False
    function = root.func.attr if isinstance(root.func, ast.Attribute) else getattr(root.func, "id", "")
    return function.startswith("empty")


def _is_view(value: ast.expr | None) -> bool:
    return isinstance(_root(value), ast.Name)


def _calls_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith("self.")
