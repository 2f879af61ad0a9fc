"""Functions whose local names are watched: what forward assigns can be changed a little, what
backward assigns is noted.

A function gets another code object for a while, made from its syntax tree:

    forward     p = softmax(s)       ->  p = _tap(3, softmax(s))           which adds what is to be added
    backward    ds = p * (dp - sum)  ->  the same, and then  _note("ds", 41, ds)

Only where the tree of the file is what runs: a function that was changed since, or that is made
anew in each call, is left out.
"""

from __future__ import annotations
import __future__

import ast
import gc
import linecache
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from minillm.checks.own_code.source import base_name

TAP, NOTE = "_tap_of_an_intermediate", "_note_of_a_gradient"
FUTURE = __future__.annotations.compiler_flag
PLAIN = (ast.Name, ast.Attribute, ast.Constant)  # another name for the same array: no place of its own
STANDARD = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
HERE = Path(__file__).parent.parent  # minillm
OURS = tuple(str(HERE / room) for room in ("layers", "models"))


@dataclass(frozen=True)
class Place:
    """A value that forward assigns. name: of the local name or attribute; index: of the tap."""

    index: int
    name: str


@dataclass(frozen=True)
class Event:
    """An assignment in the function `owner`, and the value."""

    owner: types.FunctionType
    name: str
    line: int
    value: np.ndarray


class Taps:
    """The taps of one forward: `places`, and what is added to the value at one of them."""

    def __init__(self):
        self.places: dict[int, Place] = {}
        self.values: dict[int, np.ndarray] = {}
        self.calls: dict[int, int] = {}
        self.added: tuple[int, np.ndarray] | None = None

    def new(self, name: str) -> int:
        self.places[len(self.places)] = Place(len(self.places), name)
        return len(self.places) - 1

    def __call__(self, index, value):
        if isinstance(index, tuple):
            if not isinstance(value, (tuple, list)) or len(value) != len(index):
                return value
            return tuple(each if at is None else self(at, each) for at, each in zip(index, value))
        if not isinstance(value, (np.ndarray, np.floating, float)) or np.asarray(value).dtype.kind != "f":
            return value
        self.calls[index] = self.calls.get(index, 0) + 1
        if self.added is None:
            self.values[index] = np.array(value)
        elif self.added[0] == index:
            return value + self.added[1]
        return value


def called_functions(run: Callable[[], object]) -> dict[types.FunctionType, int]:
    """The Python functions that are called in `run` -> how often, as they return.

    Those without a readable source, NumPy's, Python's and those of the checks are left out.
    """
    counts: dict[types.CodeType, int] = {}

    def profile(frame, event, argument):
        if event == "return" and _is_readable(frame.f_code.co_filename):
            counts[frame.f_code] = counts.get(frame.f_code, 0) + 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    found = {}
    for code, count in counts.items():
        functions = [f for f in gc.get_referrers(code) if isinstance(f, types.FunctionType) and f.__code__ is code]
        if len(functions) == 1:
            found[functions[0]] = count
    return found


@cache
def _is_readable(file: str) -> bool:
    if file.startswith("<") or not Path(file).is_file():
        return False
    if file.startswith(str(HERE)):
        return file.startswith(OURS)
    return "site-packages" not in file and not file.startswith(STANDARD)


@contextmanager
def watched(forward: types.FunctionType, backward: types.FunctionType, taps: Taps, note) -> Iterator[None]:
    """Within it, `forward` calls `taps`, and `backward` calls note(name, line, value). One that
    cannot be read is left as it is.
    """
    changed = []
    for function in dict.fromkeys((forward, backward)):
        found = _tree_of(function)
        if found is None:
            continue
        tree, node = found
        if function is backward:
            _Noting().change(node)
        if function is forward:
            _Tapping(taps).change(node)
        code = _compiled(tree, function.__code__)
        if code is not None:
            changed.append((function, function.__code__))
            function.__globals__[TAP], function.__globals__[NOTE] = taps, note
            function.__code__ = code
    try:
        yield
    finally:
        for function, code in changed:
            function.__code__ = code
            function.__globals__.pop(TAP, None)
            function.__globals__.pop(NOTE, None)


def _tree_of(function: types.FunctionType) -> tuple[ast.Module, ast.FunctionDef] | None:
    """(new syntax tree of the file, the function in it); None if that is not what runs."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            if code.co_firstlineno in (node.lineno, *(each.lineno for each in node.decorator_list)):
                compiled = _compiled(tree, code)
                same = compiled is not None and compiled.co_code == code.co_code and compiled.co_names == code.co_names
                return (tree, node) if same and _constants(compiled) == _constants(code) else None
    return None


def _constants(code: types.CodeType) -> list:
    return [repr(each) for each in code.co_consts if not isinstance(each, types.CodeType)]


def _compiled(tree: ast.Module, like: types.CodeType) -> types.CodeType | None:
    """The code object of one function of a file.

    The whole file is compiled: its imports matter to the compiler.
    """
    flags = like.co_flags & FUTURE
    waiting = [compile(ast.fix_missing_locations(tree), like.co_filename, "exec", flags, dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        if code.co_name == like.co_name and code.co_firstlineno == like.co_firstlineno:
            return code if code.co_freevars == like.co_freevars else None
        waiting += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return None


class _Changing:
    """Goes through the statements of a function, and not into functions inside of it."""

    def change(self, node: ast.FunctionDef) -> None:
        node.body = self._block(node.body)

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        found = []
        for statement in statements:
            for field in ("body", "orelse", "finalbody"):
                inner = getattr(statement, field, None)
                if inner and not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                    setattr(statement, field, self._block(inner))
            found += self._statement(statement)
        return found

    def _statement(self, statement: ast.stmt) -> list[ast.stmt]:
        raise NotImplementedError


class _Tapping(_Changing):
    def __init__(self, taps: Taps):
        self._taps = taps

    def change(self, node: ast.FunctionDef) -> None:
        super().change(node)
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        given = [_assigned(name, self._call(self._taps.new(name), ast.Name(name, ast.Load()))) for name in names]
        start = 1 if ast.get_docstring(node) else 0
        node.body[start:start] = [each for each, name in zip(given, names) if name not in ("self", "cls")]

    def _statement(self, statement):
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            return [statement, _assigned(name, self._call(self._taps.new(name), ast.Name(name, ast.Load())))]
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or isinstance(statement.value, (*PLAIN, type(None))):
            return [statement]
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if isinstance(targets[0], ast.Tuple) and not isinstance(statement.value, ast.Tuple):
            index = tuple(self._taps.new(n) if (n := _target(each)) else None for each in targets[0].elts)
            statement.value = self._call(index, statement.value)
        elif isinstance(targets[0], ast.Tuple):  # q, k = x @ wq, x @ wk
            if len(targets[0].elts) == len(statement.value.elts):
                for at, (target, value) in enumerate(zip(targets[0].elts, statement.value.elts)):
                    if (name := _target(target)) and not isinstance(value, (*PLAIN, ast.Starred)):
                        statement.value.elts[at] = self._call(self._taps.new(name), value)
        elif name := next(filter(None, map(_target, targets)), None):
            statement.value = self._call(self._taps.new(name), statement.value)
        return [statement]

    def _call(self, index, value: ast.expr) -> ast.Call:
        return ast.Call(ast.Name(TAP, ast.Load()), [ast.Constant(index), value], [])


class _Noting(_Changing):
    def _statement(self, statement):
        if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            each = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
            return [statement, *filter(None, (self._note(part, statement.lineno) for part in each))]
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):  # np.add.at(dw, x, dy)
            arguments = [*statement.value.args[:1], *(k.value for k in statement.value.keywords if k.arg == "out")]
            notes = [
                self._note(each, statement.lineno) for each in arguments if isinstance(each, (ast.Name, ast.Attribute))
            ]
            return [statement, *filter(None, notes)]
        return [statement]

    def _note(self, target: ast.expr, line: int) -> ast.stmt | None:
        value = target
        if isinstance(value, ast.Subscript):
            key = value.slice
            if isinstance(key, ast.Constant) and isinstance(key.value, str):  # grads["W"] = ...
                return self._call(key.value if base_name(key.value) else f"d_{key.value}", line, value)
            while isinstance(value, ast.Subscript):
                value = value.value
        name = _target(value)
        return self._call(name, line, value) if name else None

    def _call(self, name: str, line: int, value: ast.expr) -> ast.stmt:
        value = ast.parse(ast.unparse(value), mode="eval").body  # to be read, not written
        return ast.Expr(ast.Call(ast.Name(NOTE, ast.Load()), [ast.Constant(name), ast.Constant(line), value], []))


def _assigned(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _target(node: ast.expr) -> str | None:
    """The name that is assigned: of a local name, or of an attribute."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
