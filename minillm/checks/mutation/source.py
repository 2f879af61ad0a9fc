"""A module's source as a tree: its functions by name, and copies of the module with one of them
changed.

A copy has everything that the module has, but the changed function, and all functions and classes
that use it, are made anew, so that they see each other and not the original ones. Nothing else of
the module runs again: a script that trains a model does not train it a second time. What the module
computed when it was imported is shared with the copy.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import MappingProxyType

from minillm.errors import UserError

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
BLOCKS = (ast.If, ast.Try, ast.With)  # that may define functions at the top of a module
ANNOTATIONS = annotations.compiler_flag  # of a module that begins with this import
GRADIENT_LINE = "# forward:"  # a comment above a gradient line: it quotes the line that is differentiated


def functions_of(module: types.ModuleType) -> dict[str, ast.AST]:
    """The functions in the source of a module: qualified name -> node of the syntax tree.

    "f" a function, "C.f" a method (static ones and properties, too), "f.g" a function inside of
    another one. "f" is also a lambda that is assigned to this name; any other one is
    "<lambda>:LINE".
    """
    return source_of(module).functions


def backward_functions(module: types.ModuleType) -> list[str]:
    """The names of the functions that compute gradients: those with "backward" in their name, and
    those that only these call.

    Also a forward function that computes a gradient at once, if the project's comment
    "# forward: ..." says so above the line; only what follows the comment counts (`first_line`).
    """
    source = source_of(module)
    found = {name for name in source.functions if "backward" in name.rpartition(".")[2]}
    callers = _callers(source.functions)
    grown = True
    while grown:
        more = {name for name in source.functions if callers.get(name) and callers[name] <= found} - found
        grown, found = bool(more), found | more
    found |= {name for name in source.functions if first_gradient_line(module, name) is not None}
    inner = {name for name in found if name.rpartition(".")[0] in found}
    return [name for name in source.functions if name in found - inner]


def first_gradient_line(module: types.ModuleType, name: str) -> int | None:
    """The line at which a function that is no backward begins to compute gradients; None if it does
    not.
    """
    if "backward" in name:
        return None
    source = source_of(module)
    node = source.functions[name]
    for line in range(node.lineno, node.end_lineno + 1):
        if source.lines[line - 1].lstrip().startswith(GRADIENT_LINE):
            return line
    return None


@cache
def source_of(module: types.ModuleType) -> Source:
    """The Source of a module, read once. Raises UserError for a module without source."""
    return Source(module)


class Source:
    """module: as it was imported. `tree`, `lines`, `functions`: of its source."""

    def __init__(self, module: types.ModuleType):
        self.module, self.file = module, getattr(module, "__file__", None) or ""
        try:
            linecache.checkcache(self.file)
            text = inspect.getsource(module)
        except (OSError, TypeError) as error:
            raise UserError(f"{module.__name__} has no source that could be read: {error}") from None
        self.lines, self.tree = text.splitlines(), ast.parse(text)
        self.functions = dict(_functions(self.tree, ""))
        self._flags = ANNOTATIONS if _has_future_annotations(self.tree) else 0
        self._to_make = _what_to_make(self.tree)
        self._defined = {statement: set(_defined_by(statement)) for statement in self._to_make}
        self._used = {statement: set(_used_by(statement)) for statement in self._to_make}
        self._codes = [self.compiled(statement) for statement in self._to_make]

    def compiled(self, statement: ast.stmt) -> types.CodeType:
        """The code of one statement of the module, which has the line numbers of the file."""
        tree = ast.fix_missing_locations(ast.Module([statement], []))
        return compile(tree, self.file, "exec", flags=self._flags, dont_inherit=True)

    def statement_with(self, node: ast.AST) -> ast.stmt:
        """The statement at the top of the module that has this node. Raises KeyError for none."""
        for statement in self._to_make:
            if any(each is node for each in ast.walk(statement)):
                return statement
        raise KeyError(f"line {getattr(node, 'lineno', '?')} of {self.file} defines no function")

    def copy(self, changed: Mapping[ast.stmt, types.CodeType] = MappingProxyType({}), **names) -> types.ModuleType:
        """A copy of the module.

        changed: the code of statements that are other ones. names: what the copy has beside, or in
        place of, the module's own.
        """
        made = types.ModuleType(self.module.__name__)
        made.__dict__.update(vars(self.module))
        made.__dict__.update(names)
        affected = self._affected(changed, names)
        for statement, own in zip(self._to_make, self._codes):
            if statement in affected:
                exec(changed.get(statement, own), made.__dict__)
        return made

    def _affected(self, changed: Iterable[ast.stmt], names: Iterable[str]) -> set[ast.stmt]:
        """The statements that are to run again: the changed ones, and those that use what these
        define, or one of the names, and so on.
        """
        affected, other = set(changed), set(names)
        grown = True
        while grown:
            other |= {name for statement in affected for name in self._defined[statement]}
            more = {each for each in self._to_make if each not in affected and self._used[each] & other}
            grown, affected = bool(more), affected | more
        return affected


def rebuilt(module: types.ModuleType, original: types.ModuleType, changed: types.ModuleType) -> types.ModuleType:
    """A copy of `module` that has imported from `changed` what it has imported from `original`."""
    taken = {
        name: vars(changed)[name]
        for name, value in vars(module).items()
        if name in vars(changed) and value is vars(original).get(name) and not name.startswith("__")
    }
    return source_of(module).copy(**taken)


# ------------------------------------------------------------------------------------------------------------------ helpers


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    named = None
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda) and isinstance(node.targets[0], ast.Name):
        named = node.value
        yield prefix + node.targets[0].id, named
    for child in ast.iter_child_nodes(node):
        inside = prefix
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + child.name, child
            inside = f"{prefix}{child.name}."
        elif isinstance(child, ast.ClassDef):
            inside = f"{prefix}{child.name}."
        elif isinstance(child, ast.Lambda) and child is not named:
            yield f"{prefix}<lambda>:{child.lineno}", child
        yield from _functions(child, inside)


def _callers(functions: dict[str, ast.AST]) -> dict[str, set[str]]:
    """Function -> the functions that name it, itself left out."""
    by_last = {}
    for name in functions:
        by_last.setdefault(name.rpartition(".")[2], []).append(name)
    callers: dict[str, set[str]] = {}
    for caller, node in functions.items():
        for each in ast.walk(node):
            called = each.id if isinstance(each, ast.Name) else each.attr if isinstance(each, ast.Attribute) else None
            for name in by_last.get(called, ()):
                if name != caller and isinstance(each, ast.Attribute) == ("." in name):
                    callers.setdefault(name, set()).add(caller)
    return callers


def _defined_by(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module gives a value."""
    if isinstance(statement, (*FUNCTIONS[:2], ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        yield from (node.id for node in ast.walk(statement) if _is_stored_name(node))
    else:
        for child in ast.iter_child_nodes(statement):
            yield from _defined_by(child)


def _is_stored_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _used_by(statement: ast.stmt) -> Iterator[str]:
    return (node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))


def _has_future_annotations(tree: ast.Module) -> bool:
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    return any(alias.name == "annotations" for node in imports for alias in node.names)


def _what_to_make(tree: ast.Module) -> list[ast.stmt]:
    """The statements that define functions and classes, and those that only give them other names,
    as `pair = (forward, backward)` does.
    """
    found, names = [], set()
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(statement)
            names.add(statement.name)
        elif isinstance(statement, BLOCKS) and not _is_main(statement) and _defines_only(statement):
            found.append(statement)
            names |= {each.name for each in ast.walk(statement) if isinstance(each, (ast.FunctionDef, ast.ClassDef))}
        elif isinstance(statement, ast.Assign) and _only_names(statement.value, names):
            found.append(statement)
            names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return found


def _is_main(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def _defines_only(statement: ast.stmt) -> bool:
    """Whether a block consists of definitions, imports and names for them."""
    inside = [each for each in ast.walk(statement) if isinstance(each, (ast.FunctionDef, ast.ClassDef))]
    bodies = [each for field in ("body", "orelse", "finalbody") for each in getattr(statement, field, ())]
    harmless = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.Pass)
    return bool(inside) and all(isinstance(each, harmless) for each in bodies)


def _only_names(value: ast.expr, names: set[str]) -> bool:
    """Whether an expression calls nothing, and has a lambda in it or names a function of the
    module.
    """
    if isinstance(value, ast.Lambda):
        return True
    nodes = list(_outside_of_lambdas(value))
    if any(isinstance(node, (ast.Call, ast.Await, ast.comprehension)) for node in nodes):
        return False
    named = any(isinstance(node, ast.Name) and node.id in names for node in nodes)
    return named or any(isinstance(node, ast.Lambda) for node in nodes)


def _outside_of_lambdas(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _outside_of_lambdas(child)
