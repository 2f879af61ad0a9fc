"""The lines of code that compute a tensor and its gradient, found in the functions that ran.

The pass gives the operation, its backward, and where each was called. The source of a function
gives the lines that compute a result: those that assign the name it returns, or the return
statement itself. This relies on one convention of the layers: in `NAME_backward` the gradient of
`x` is named `dx`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FunctionType

import minillm
from minillm.inspection.observation import Call, Frame
from minillm.inspection.recording import Tensor

ROOT = Path(minillm.__file__).parents[1]
SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return)


@dataclass
class Passage:
    """A function (or its code object), the numbers of the marked lines, and a title that says why
    it is shown.
    """

    title: str
    function: object
    marked: set[int] = field(default_factory=set)

    @property
    def place(self) -> str:
        """file:line, as editors open it."""
        path = Path(getattr(self.function, "__code__", self.function).co_filename)
        return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{_source(self.function)[1]}"

    @property
    def lines(self) -> tuple[list[str], int]:
        """The lines of the function, dedented, and the number of the first in its file."""
        return _source(self.function)

    def __str__(self) -> str:
        lines, first = self.lines
        numbered = (
            f"{'>' if number in self.marked else ' '} {number:>4}  {line}".rstrip()
            for number, line in enumerate(lines, first)
        )
        return "\n".join((f"{self.title} {self.place}", *numbered))


def forward_passages(tensor: Tensor) -> list[Passage]:
    """The code that computes a tensor; for a parameter, the operations that read it."""
    if tensor.place is None:
        return _merged(
            Passage("read by", call.function, _lines_reading(call.function, name)) for call, name in tensor.uses
        )
    frame, place = tensor.frames[0], tensor.place
    if place.side == "input":
        argument = _operation_argument(frame, tensor.call, place.key)
        return [Passage("computed in", frame.code, _lines_before(frame, argument))]
    if place.operation is None:
        argument = _layer_argument(frame, place.layer, "forward")
        return [Passage("computed in", frame.code, _lines_before(frame, argument))]
    function = tensor.call.function
    output = _results(function)[0]
    if isinstance(output, ast.Tuple):
        output = output.elts[place.key]
    called = Passage("called in", frame.code, _statement_lines(frame))
    return [called, *_computing("computed by", function, output)]


def gradient_passages(tensor: Tensor) -> list[Passage]:
    """The code that computes a tensor's gradient, and the place where it is passed to the tensor's
    backward.
    """
    if tensor.place is None:
        passages = []
        for call, name in tensor.uses:
            if call.backward is not None:
                passages.append(Passage("its gradient:", call.backward, _lines_assigning(call.backward, f"d{name}")))
                passages += _in_advance(call.backward, call.function, f"d{name}")
        return _merged(passages)
    origin, passages = tensor.origin, []
    if origin.function is not None:
        results = _results(origin.function)
        result = results[min(origin.position, len(results) - 1)]
        passages += _computing("its gradient:", origin.function, result)
        passages += _in_advance(origin.function, origin.forward, _root(result))
    if origin.frames:
        frame, argument = _hand_over(tensor)
        passages += _put_together(origin.nearby, frame, argument)
        passages.append(Passage("handed on in", frame.code, _lines_before(frame, argument)))
    return _merged(passages)


def _merged(passages: Iterable[Passage]) -> list[Passage]:
    """Merge the marks of each function into one passage."""
    merged: dict[tuple, Passage] = {}
    for passage in passages:
        code = getattr(passage.function, "__code__", passage.function)
        merged.setdefault(code, Passage(passage.title, passage.function)).marked.update(passage.marked)
    return list(merged.values())


def _computing(title: str, function, result: ast.expr) -> list[Passage]:
    """A function with the lines that compute one of its results, and the helpers of its module that
    it leaves this to.

    A helper is the function whose result is returned, and any that is called and returns a value of
    the same name: `attend` returns the y of a block, which becomes a part of the y of
    `attention_forward`.
    """
    passages = [Passage(title, function, _lines_computing(function, result))]
    for helper in _helpers(function):
        same = [part for part in _results(helper) if _root(part) is not None and _root(part) == _root(result)]
        passages += [Passage("by way of", helper, _lines_computing(helper, part)) for part in same]
    while isinstance(result, ast.Call) and isinstance(result.func, ast.Name) and result.args:
        helper = inspect.unwrap(function).__globals__.get(result.func.id)
        if getattr(helper, "__module__", None) == function.__module__:
            passages.append(Passage("by way of", helper, _lines_computing(helper, _results(helper)[0])))
        result = result.args[0]
    return passages


def _put_together(nearby: list[tuple[Call, Frame]], frame: Frame, argument: ast.expr | None) -> list[Passage]:
    """The backward of an operation whose results a function assembled into a gradient.

    It is the last one that ran in a statement that the gradient depends on, with the result that
    has the gradient's name there, or all of its results.
    """
    lines = _lines_behind(frame, argument)
    ran = [(call, at) for call, at in nearby if (at.code, at.layer) == (frame.code, frame.layer) and at.line in lines]
    if not ran:
        return []
    call, at = ran[-1]
    results, targets = _results(call.backward), _targets(_statement(at))
    if len(targets) == len(results) and _root(argument) in targets:
        results = [results[targets.index(_root(argument))]]
    return _merged(passage for result in results for passage in _computing("its gradient:", call.backward, result))


def _in_advance(backward, forward, name: str | None) -> list[Passage]:
    """The forward function, if it computed a gradient and backward only unpacks it from `saved`."""
    unpacked = [s for s in _assignments(backward, name) if isinstance(s, ast.Assign) and _root(s.value) == "saved"]
    return [Passage("in advance, in", forward, _lines_assigning(forward, name))] if forward and unpacked else []


def _hand_over(tensor: Tensor) -> tuple[Frame, ast.expr | None]:
    """The last frame that computed a gradient, before it reached the backward of its tensor's
    operation.

    A function that got it as an argument only passes it on: then its caller is taken.
    """
    frames = tensor.origin.frames
    argument = _operation_argument(frames[0], None, None) if tensor.place.operation else None
    argument = argument or _layer_argument(frames[0], tensor.place.layer, "backward")
    for frame, outer in zip(frames, frames[1:]):
        name = _root(argument)
        if name not in frame.code.co_varnames[: frame.code.co_argcount] or _assigned_before(frame, name):
            return frame, argument
        argument = _layer_argument(outer, frame.layer, "backward")
    return frames[-1], argument


# ------------------------------------------------------------------------------------------------------ reading functions


@cache
def _source(function) -> tuple[list[str], int]:
    """The dedented lines of a function, and the number of the first."""
    code = getattr(function, "__code__", function)
    if code.co_name == "<lambda>" or not Path(code.co_filename).is_file():
        return [f"def {code.co_name.strip('<>')}_():", "    return ...  # a function without a source file"], 1
    lines, first = inspect.getsourcelines(function)
    return textwrap.dedent("".join(lines)).splitlines(), first


@cache
def _tree(function) -> ast.FunctionDef:
    lines, first = _source(function)
    (tree,) = ast.parse("\n".join(lines)).body
    return ast.increment_lineno(tree, first - 1)


def _results(function) -> list[ast.expr]:
    """What the last return statement of a function returns, one by one."""
    returns = [node for node in ast.walk(_tree(function)) if isinstance(node, ast.Return) and node.value]
    values = [node.value for node in sorted(returns, key=lambda node: node.lineno)]
    return [part for value in values[-1:] for part in (value.elts if isinstance(value, ast.Tuple) else [value])]


def _helpers(function) -> list:
    """The functions of its own module that a function calls by name, in the order of its source."""
    called = [
        node.func.id
        for node in ast.walk(_tree(function))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    helpers = [inspect.unwrap(function).__globals__.get(name) for name in dict.fromkeys(called)]
    return [h for h in helpers if isinstance(h, FunctionType) and h.__module__ == function.__module__]


def _root(expression: ast.expr | None) -> str | None:
    """The name that an expression is based on: y in y.reshape(...), y[i], (y if ... else ...),
    contiguous(y).
    """
    if isinstance(expression, ast.Name):
        return None if expression.id == "self" else expression.id
    if isinstance(expression, ast.IfExp):
        return _root(expression.body)
    if isinstance(expression, (ast.Attribute, ast.Subscript, ast.Starred)):
        return _root(expression.value)
    if isinstance(expression, ast.Call):
        return _root(
            expression.func if isinstance(expression.func, ast.Attribute) else next(iter(expression.args), None)
        )
    return None


def _lines(node: ast.AST | None) -> set[int]:
    return set() if node is None else set(range(node.lineno, node.end_lineno + 1))


def _assignments(function, name: str | None) -> list[ast.stmt]:
    """The statements that assign or change `name`.

    They are assignments, statements with a call that has `out=name`, and calls as statements with
    `name` as first argument.
    """
    return [] if name is None else [s for s in ast.walk(_tree(function)) if isinstance(s, SIMPLE) and _assigns(s, name)]


def _targets(statement: ast.stmt) -> list[str | None]:
    """The names that a statement assigns, one for each entry of a tuple."""
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    return [_root(t) for target in targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])]


def _assigns(statement: ast.stmt, name: str) -> bool:
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    out = [_root(keyword.value) for call in calls for keyword in call.keywords if keyword.arg == "out"]
    if name in out or name in _targets(statement):
        return True
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call) or out:
        return False
    called = statement.value
    if isinstance(called.func, ast.Attribute) and _root(called.func) is None:  # self.c_proj.backward(dy) only reads dy
        return False
    return name in map(_root, called.args[:1])


def _lines_assigning(function, name: str | None) -> set[int]:
    return set().union(*map(_lines, _assignments(function, name)))


def _lines_computing(function, result: ast.expr) -> set[int]:
    """The lines that compute one of the results of a function."""
    return _lines_assigning(function, _root(result)) or _lines(result)


def _lines_reading(function, name: str) -> set[int]:
    """The lines of the statements that compute something from `name`; saving it does not count."""
    read = [s for s in ast.walk(_tree(function)) if isinstance(s, SIMPLE) and not isinstance(s, ast.Return)]
    read.append(_results(function)[0])
    return set().union(*(_lines(s) for s in read if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(s))))


# --------------------------------------------------------------------------------------------------------- reading calls


def _statement(frame: Frame) -> ast.stmt:
    """The statement that a frame is executing."""
    statements = [s for s in ast.walk(_tree(frame.code)) if isinstance(s, SIMPLE) and frame.line in _lines(s)]
    return min(statements, key=lambda s: s.end_lineno - s.lineno)


def _statement_lines(frame: Frame) -> set[int]:
    return _lines(_statement(frame))


def _calls(frame: Frame) -> list[ast.Call]:
    return [node for node in ast.walk(_statement(frame)) if isinstance(node, ast.Call)]


def _operation_argument(frame: Frame, call: Call | None, name: str | None) -> ast.expr | None:
    """The argument of an operation for its input `name`; without a name, the gradient next to
    `saved`.
    """
    plain = [node for node in _calls(frame) if isinstance(node.func, ast.Name)]
    if name is not None:
        position = list(call.arguments.signature.parameters).index(name)
        return next((node.args[position] for node in plain if len(node.args) > position), None)
    with_saved = [node for node in plain if len(node.args) > 1 and "saved" in ast.unparse(node.args[1])]
    return with_saved[0].args[0] if with_saved else None


def _layer_argument(frame: Frame, layer: str, method: str) -> ast.expr | None:
    """The argument of `self.<layer>.<method>(...)` in a frame; under another name of the layer, the
    first such.
    """
    calls = [node for node in _calls(frame) if isinstance(node.func, ast.Attribute) and node.func.attr == method]
    named = [node for node in calls if ast.unparse(node.func.value).rpartition(".")[2] == layer.rpartition(".")[2]]
    return next((node.args[0] for node in (named or calls[:1]) if node.args), None)


def _assigned_before(frame: Frame, name: str | None) -> list[ast.stmt]:
    """The statements that assign `name` before the one a frame executes, or in the same loop."""
    here, tree = _statement(frame), _tree(frame.code)
    loops = [n for n in ast.walk(tree) if isinstance(n, (ast.For, ast.While)) and here.lineno in _lines(n)]
    looped = set().union(*map(_lines, loops))
    return [s for s in _assignments(frame.code, name) if s.end_lineno < here.lineno or s.lineno in looped]


def _lines_before(frame: Frame, argument: ast.expr | None) -> set[int]:
    """The lines that compute the argument of the call a frame is executing."""
    before = set().union(*map(_lines, _assigned_before(frame, _root(argument))))
    if before and isinstance(argument, (ast.Name, ast.IfExp)):
        return before
    return before | _lines(argument) or _statement_lines(frame)


def _lines_behind(frame: Frame, argument: ast.expr | None) -> set[int]:
    """The lines of the statement a frame is executing, and of all before it that the argument
    depends on.
    """
    here, names, before = _statement(frame), _names(argument), None
    behind = _lines(here)
    while names != before:
        before = set(names)
        for node in ast.walk(_tree(frame.code)):
            if isinstance(node, ast.For) and before & _names(node.target):
                names |= _names(node.iter)
            elif (
                isinstance(node, SIMPLE) and node.lineno < here.lineno and any(_assigns(node, name) for name in before)
            ):
                behind |= _lines(node)
                names |= _names(node)
    return behind


def _names(node: ast.AST | None) -> set[str]:
    return set() if node is None else {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
