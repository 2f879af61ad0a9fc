"""Watching functions run line by line: what every statement assigned, and what it multiplied.

    with Tracer([path]) as tracer:
        ...                                  the functions of these files are watched, in this thread
    tracer.calls                             each call, with its arguments, statements and result

Everything is described when its line has run, since a later line may write over it. Two things are
seen at the statement that is about to run: the operands of a product `a @ b` are computed once
more, from copies, and the arguments of `backend.matmul.matmul` as they come.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType

import numpy as np

from minillm.backend.matmul import matmul
from minillm.kernels.launch import CudaFile
from minillm.layers.layer import Parameter
from minillm.layers.linear import Linear
from minillm.web.read.statements import File, Product, Statement, Written, file_of

SHOWN = 4  # numbers of an array
LISTED = 8  # arrays of a list
GENERATOR = 0x20  # inspect.CO_GENERATOR
NOT_THERE = (NameError, KeyError, IndexError, AttributeError, TypeError)  # a place that the statement did not reach


@dataclass(frozen=True)
class Look:
    """An array or a number at one moment.

    norm: Euclidean, of its finite numbers. values: the first few. Both are missing, None and (), of
    memory that is not filled yet.
    """

    shape: tuple[int, ...]
    dtype: str
    norm: float | None = None
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fields:
    """A NamedTuple at one moment: its class, and its fields as `describe` has them."""

    kind: str
    values: dict[str, object]


@dataclass
class Step:
    """A statement that ran. names: what it assigned or changed; "return" and "return[i]" what it
    returned and no name had before.

    products: the shapes of the two operands of each matrix product that was computed until the
    statement ended, here or in functions that it called. operands: the shapes that it read, and
    that these functions took and returned.
    """

    line: int
    statement: Statement
    names: dict[str, object] = field(default_factory=dict)
    products: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    operands: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class Call:
    """A call of a function. line: the first of the function in its file. at_end: its names when it
    returned.

    owners: of a method the number of its object, another one for each. Arguments, at_end and
    returned are as `describe` has them, the last two without numbers.
    """

    file: str
    function: str
    line: int
    arguments: dict[str, object]
    steps: list[Step] = field(default_factory=list)
    at_end: dict[str, object] = field(default_factory=dict)
    returned: object = None
    finished: bool = False
    owners: set[int] = field(default_factory=set, repr=False)


def describe(value, has_numbers: Callable[[np.ndarray], bool] = lambda array: True):
    """A Look for an array or a number; Fields for a NamedTuple; a tuple for a list or tuple; None
    for anything else.

    has_numbers: whether those of an array are wanted beside its shape and dtype.
    """
    if isinstance(value, Linear) and "weight" in vars(value):
        weight = value.weight.value
        return describe(weight.T if value.transposed else weight, has_numbers)
    if isinstance(value, Parameter):
        value = vars(value).get("_value")  # not yet there while one is made
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return None if array.dtype.names else _look(array, has_numbers(array))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Look((), type(value).__name__, abs(float(value)), (float(value),))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = (describe(part, has_numbers) for part in value)
        return Fields(type(value).__name__, dict(zip(value._fields, parts)))
    if isinstance(value, (tuple, list)):
        return tuple(describe(part, has_numbers) for part in value[:LISTED])
    return None


def looks(described) -> Iterator[Look]:
    """All Looks in what `describe` gave."""
    if isinstance(described, Look):
        yield described
    elif isinstance(described, tuple):
        for part in described:
            yield from looks(part)
    elif isinstance(described, Fields):
        yield from looks(tuple(described.values.values()))


class Tracer:
    """Watches the functions of some files while it is entered; `calls` has those that ran, in the
    order of their start.

    files: their paths, as in the code objects. numbers=False: shapes and dtypes alone are
    described. The tracer that was set before, a debugger's say, is set again at the end, after an
    exception too.
    """

    def __init__(self, files: Collection[str], numbers: bool = True):
        self.calls: list[Call] = []
        self._numbers = numbers
        self._files: dict[str, File] = {each: file_of(each) for each in files}
        self._frames: dict[FrameType, _Running] = {}  # a generator's frame comes again
        self._stack: list[_Running] = []
        self._unfilled: list[np.ndarray] = []
        self._by_kernels: list[np.ndarray] = []
        self._owners: dict[int, tuple[int, object]] = {}

    def __enter__(self) -> Tracer:
        self._previous = sys.gettrace()
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_) -> None:
        sys.settrace(self._previous)
        self._frames.clear()
        self._stack.clear()
        self._unfilled.clear()
        self._by_kernels.clear()

    # --------------------------------------------------------------------------------------------------- events

    def _on_call(self, frame: FrameType, event: str, argument):
        code = frame.f_code
        if code is _MATMUL:
            self._add_product(frame.f_locals["a"], frame.f_locals["b"])
            return None
        if code is _LAUNCH:  # kernels write into arrays of their arguments
            for array in frame.f_locals["arguments"]:
                if self._is_unfilled(array):
                    self._fill(array)
                    self._by_kernels.append(_base(array))
            return None
        file = self._files.get(code.co_filename)
        if file is None or code.co_name.startswith("<"):  # a lambda, a generator expression: part of its statement
            return None
        running = self._frames.get(frame)
        if running is None:
            name = file.functions.get(code.co_firstlineno, code.co_name)
            arguments = {name: describe(value, self._has_numbers) for name, value in _arguments(frame)}
            running = _Running(file, Call(code.co_filename, name, code.co_firstlineno, arguments))
            running.call.owners |= self._owner(frame)
            self._frames[frame] = running
            self.calls.append(running.call)
            self._add_operands(tuple(running.call.arguments.values()))
        self._stack.append(running)
        return self._on_event

    def _owner(self, frame: FrameType) -> set[int]:
        owner = frame.f_locals.get("self") if frame.f_code.co_varnames[:1] == ("self",) else None
        if owner is None:
            return set()
        return {self._owners.setdefault(id(owner), (next(_NUMBERS), owner))[0]}  # the object stays, and so its id

    def _on_event(self, frame: FrameType, event: str, argument):
        running = self._frames[frame]
        if event == "line":
            running.raised = False
            statement = running.file.statements.get(frame.f_lineno)
            if statement is not None and (running.step is None or running.step.statement is not statement):
                self._finish(running, frame, statement)
                self._begin(running, statement, frame)
        elif event == "exception":
            running.step, running.raised = None, True
        elif event == "return":
            self._return(running, frame, argument)
        return self._on_event

    def _begin(self, running: _Running, statement: Statement, frame: FrameType) -> None:
        running.step = Step(statement.first, statement)
        arrays = {n: frame.f_locals[n] for n in statement.reads if isinstance(frame.f_locals.get(n), np.ndarray)}
        running.step.operands += map(np.shape, arrays.values())
        running.unfilled = tuple(name for name, array in arrays.items() if self._is_unfilled(array))
        for product in statement.products:
            operands = _operands(product, frame)
            if operands is not None:
                self._add_product(*operands)

    def _finish(self, running: _Running, frame: FrameType, following: Statement | None, returned=None) -> None:
        step, running.step = running.step, None
        if step is None or step.statement.is_end_of_loop(following):
            return
        for written in step.statement.written:
            try:
                value = eval(written.code, frame.f_globals, frame.f_locals)
            except NOT_THERE:
                continue
            self._note_memory(written, value)
            step.names[written.text] = describe(value, self._has_numbers)
        for name in running.unfilled:  # a kernel wrote there
            array = frame.f_locals.get(name)
            if any(_base(array) is each for each in self._by_kernels):
                step.names.setdefault(name, describe(array, self._has_numbers))
        for name, value in _returned(step.statement, returned):
            step.names[name] = describe(value, self._has_numbers)
        running.call.steps.append(step)

    def _return(self, running: _Running, frame: FrameType, value) -> None:
        self._stack.pop()
        if running.raised:
            return
        self._finish(running, frame, None, value)
        call = running.call
        call.finished = True
        call.returned = None if frame.f_code.co_flags & GENERATOR else describe(value, _never)
        call.at_end = {name: describe(each, _never) for name, each in frame.f_locals.items()}
        self._add_operands(call.returned)

    # ------------------------------------------------------------------------------------------------ statements

    def _add_product(self, a, b) -> None:
        for running in self._stack:
            if running.step is not None:
                running.step.products.append((np.shape(a), np.shape(b)))

    def _add_operands(self, described) -> None:
        if self._stack and self._stack[-1].step is not None:
            self._stack[-1].step.operands += [look.shape for look in looks(described)]

    # ------------------------------------------------------------------------------------------ memory without numbers

    def _note_memory(self, written: Written, value) -> None:
        """Keep account of memory that holds no numbers yet: from `empty` until a statement or a
        kernel writes there.
        """
        if isinstance(value, np.ndarray):
            if written.is_new:
                self._unfilled.append(_base(value))
            elif not written.is_view:
                self._fill(value)

    def _fill(self, array) -> None:
        base = _base(array)
        self._unfilled = [each for each in self._unfilled if each is not base]

    def _has_numbers(self, array: np.ndarray) -> bool:
        return self._numbers and not self._is_unfilled(array)

    def _is_unfilled(self, array) -> bool:
        return any(_base(array) is each for each in self._unfilled)


@dataclass
class _Running:
    """A frame that is watched, and the statement that it is at. unfilled: names that had no numbers
    when it began.
    """

    file: File
    call: Call
    step: Step | None = None
    unfilled: tuple[str, ...] = ()
    raised: bool = False


_NUMBERS = itertools.count()
_MATMUL: CodeType = matmul.__code__
_LAUNCH: CodeType = CudaFile.launch.__code__


def _never(array) -> bool:
    return False


def _look(array: np.ndarray, numbers: bool) -> Look:
    shape, dtype = tuple(map(int, array.shape)), str(array.dtype)
    if not numbers or array.dtype.kind not in "biuf":
        return Look(shape, dtype)
    with np.errstate(invalid="ignore"):  # memory that is not filled yet may hold any bits
        wide = array.astype(np.float64)
    norm = float(np.sqrt(np.square(wide[np.isfinite(wide)]).sum()))
    return Look(shape, dtype, norm, tuple(float(number) for number in wide.flat[:SHOWN]))


def _arguments(frame: FrameType) -> Iterator[tuple[str, object]]:
    code = frame.f_code
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        if name in frame.f_locals:
            yield name, frame.f_locals[name]


def _operands(product: Product, frame: FrameType) -> tuple | None:
    """Its operands, computed from copies of the arrays; None where the product is not computed."""
    if not product.pure:
        return None
    names = {n: each.copy() if isinstance(each, np.ndarray) else each for n, each in frame.f_locals.items()}
    try:
        if not all(bool(eval(test, frame.f_globals, names)) == wanted for test, wanted in product.tests):
            return None
        return eval(product.left, frame.f_globals, names), eval(product.right, frame.f_globals, names)
    except NOT_THERE:
        return None


def _returned(statement: Statement, value) -> Iterator[tuple[str, object]]:
    """What a return statement computed itself: no plain name."""
    parts = statement.returned
    if len(parts) > 1 and isinstance(value, tuple) and len(value) == len(parts):
        yield from ((f"return[{index}]", value[index]) for index, part in enumerate(parts) if not _is_name(part))
    elif len(parts) == 1 and not _is_name(parts[0]):
        yield "return", value


def _is_name(part) -> bool:
    return type(part).__name__ in ("Name", "Constant")


def _base(array):
    while isinstance(getattr(array, "base", None), np.ndarray):
        array = array.base
    return array
