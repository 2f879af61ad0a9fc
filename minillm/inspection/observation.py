"""Callbacks around every layer and operation of a pass, without any code in the layers.

An operation is a pair of pure functions, `NAME_forward` and `NAME_backward`, which a layer finds in
its own module. While a model is observed, three things are replaced, and restored afterwards:

    layer.forward, layer.backward        of every layer of this model, by an attribute of the instance
    NAME_forward, NAME_backward          in the modules of the layers' classes
    dispatch                             in these modules: a kernel's pair of functions is wrapped as well

Each replacement calls the original and passes its inputs and outputs to the observer. There is no
tape and no derivative here: backward is the code of the layers.

Modules belong to all threads: there the replacement looks for an observer of its own thread, and is
the original where there is none. So one thread can observe its model while others run theirs, or
observe them. In one thread, no other model should run while one is observed.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from minillm.layers.layer import Layer
from minillm.layers.linear import LinearSaved


@dataclass(frozen=True)
class Frame:
    """A place in the code: the function `code` at `line`; `layer` is the name of its layer, ""
    without one.
    """

    code: types.CodeType
    line: int
    layer: str


@dataclass(eq=False)
class Call:
    """One call of `NAME_forward`.

    index: how many calls of this operation its layer made before in this pass.
    """

    layer: str
    operation: str
    index: int
    function: types.FunctionType
    arguments: inspect.BoundArguments
    outer: Call | None  # the operation that called this one
    frames: list[Frame]  # from the caller outwards
    outputs: tuple = ()
    saved: object = None
    backward: types.FunctionType | None = None  # set when it was called
    tensors: list = field(default_factory=list)  # free for the observer: its records of the outputs


class Observer:
    """The callbacks of a pass.

    A subclass overrides those it needs; it may replace inputs and outputs.
    """

    def before_operation(self, call: Call) -> None:
        """Before `NAME_forward`: the call's arguments are set, and may be changed."""

    def after_operation(self, call: Call) -> None:
        """After `NAME_forward`: outputs and `saved` are set; the outputs may be changed."""

    def before_backward(self, call: Call, gradients: tuple, frames: list[Frame]) -> None:
        """Before `NAME_backward`, with the gradients of the outputs."""

    def after_backward(self, call: Call, gradients: tuple) -> None:
        """After `NAME_backward`, with the gradients of the inputs."""

    def after_layer(self, layer: Layer, output, frames: list[Frame]):
        """After a layer's forward. Returns the output, or a replacement for it."""
        return output

    def before_layer_backward(self, layer: Layer, gradients: tuple, frames: list[Frame]) -> None:
        """Before a layer's backward, with the gradients of its outputs."""

    def after_layer_backward(self, layer: Layer, method: types.FunctionType, gradients) -> None:
        """After a layer's backward, with the gradients of its inputs."""


@contextmanager
def observed(model: Layer, observer: Observer) -> Iterator[None]:
    """Call `observer` for every layer and operation of `model` that runs inside the block."""
    watch = _Watch(observer)
    layers = [layer for _, layer in model.layers() if layer is not model]
    modules = {
        sys.modules[kind.__module__]: None for layer in layers for kind in type(layer).__mro__ if kind is not object
    }
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_exchanged(layer, "forward", watch.layer_forward(layer)))
            stack.enter_context(_exchanged(layer, "backward", watch.layer_backward(layer)))
        for module in modules:
            stack.enter_context(_watched(module))
        stack.enter_context(_exchanged(_THREAD, "watch", watch))
        yield


_THREAD = threading.local()  # its attribute `watch`: the _Watch of this thread
_LOCK = threading.Lock()
_originals: dict[
    types.ModuleType, tuple[int, dict]
] = {}  # of watched modules: how many watch it, and its own functions


@contextmanager
def _watched(module: types.ModuleType) -> Iterator[None]:
    """Inside, the operations of a module are replaced; the last thread to leave restores them."""
    with _LOCK:
        count, own = _originals.get(module, (0, {}))
        if count == 0:
            replaced = dict(_replacements(module))
            own = {name: vars(module)[name] for name in replaced}
            vars(module).update(replaced)
        _originals[module] = count + 1, own
    try:
        yield
    finally:
        with _LOCK:
            count, own = _originals.pop(module)
            if count > 1:
                _originals[module] = count - 1, own
            else:
                vars(module).update(own)


def _replacements(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    """(name, replacement) for the operations of a module and for its `dispatch`."""
    for name, forward in list(vars(module).items()):
        other = f"{name.removesuffix('_forward')}_backward"
        backward = vars(module).get(other)
        if name.endswith("_forward") and callable(forward) and callable(backward):
            operation = name.removesuffix("_forward")
            yield name, _forward(operation, forward)
            yield other, _backward(operation, backward)
    if "dispatch" in vars(module):
        yield "dispatch", _implementation(module.dispatch)


def _implementation(original):
    @functools.wraps(original)
    def dispatch(array, forward, backward):
        chosen = original(array, forward, backward)
        if chosen[0] is forward:  # replaced already
            return chosen
        operation = forward.__name__.removesuffix("_forward")
        return _forward(operation, chosen[0]), _backward(operation, chosen[1])

    return dispatch


def _forward(operation: str, function):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def forward(*arguments, **settings):
        watch = getattr(_THREAD, "watch", None)
        if watch is None:
            return function(*arguments, **settings)
        return watch.forward(operation, function, signature.bind(*arguments, **settings))

    forward.only_watches = True  # its result may be made again all the same (layers/made_again.py)
    return forward


def _backward(operation: str, function):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def backward(*arguments, **settings):
        watch = getattr(_THREAD, "watch", None)
        if watch is None:
            return function(*arguments, **settings)
        return watch.backward(operation, function, signature.bind(*arguments, **settings))

    return backward


@contextmanager
def _exchanged(owner, name: str, value) -> Iterator[None]:
    """Set an attribute of `owner` inside the block; an inherited one is restored as such."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


class _Watch:
    """Wraps layers and operations, and keeps track of the running one."""

    def __init__(self, observer: Observer):
        self._observer = observer
        self._layers: list[str] = []
        self._open: list[Call] = []
        self._counts: Counter = Counter()
        self._waiting: list[Call] = []  # calls whose backward has not run yet

    def layer_forward(self, layer: Layer):
        original = layer.forward

        @functools.wraps(original)
        def forward(*arguments, **settings):
            frames = _frames()
            self._layers.append(layer.name)
            try:
                output = original(*arguments, **settings)
            finally:
                self._layers.pop()
            if not self._layers:
                self._counts.clear()
            return self._observer.after_layer(layer, output, frames)

        forward.only_watches = True
        return forward

    def layer_backward(self, layer: Layer):
        original = layer.backward

        @functools.wraps(original)
        def backward(*gradients):
            self._observer.before_layer_backward(layer, gradients, _frames())
            result = original(*gradients)
            self._observer.after_layer_backward(layer, getattr(original, "__func__", original), result)
            return result

        return backward

    def forward(self, operation: str, function, bound: inspect.BoundArguments):
        """Call `function`, the forward of an operation, and its observer before and after."""
        layer = self._layers[-1] if self._layers else ""
        index = self._counts[layer, operation]
        self._counts[layer, operation] += 1
        outer = self._open[-1] if self._open else None
        call = Call(layer, operation, index, function, bound, outer, _frames())
        self._observer.before_operation(call)
        self._open.append(call)
        try:
            y, call.saved = function(*bound.args, **bound.kwargs)
        finally:
            self._open.pop()
        call.outputs = y if isinstance(y, tuple) else (y,)
        self._observer.after_operation(call)
        self._waiting.append(call)
        return call.outputs if isinstance(y, tuple) else call.outputs[0], call.saved

    def backward(self, operation: str, function, bound: inspect.BoundArguments):
        """Call `function`, the backward of an operation, and its observer before and after."""
        call = self._taken(operation, bound.arguments["saved"])
        if call is None:  # forward ran before the model was observed
            return function(*bound.args, **bound.kwargs)
        call.backward = function
        # The parameters before `saved` are the gradients of the outputs.
        count = list(bound.signature.parameters).index("saved")
        self._observer.before_backward(call, bound.args[:count], _frames())
        gradients = function(*bound.args, **bound.kwargs)
        self._observer.after_backward(call, gradients if isinstance(gradients, tuple) else (gradients,))
        return gradients

    def _taken(self, operation: str, saved) -> Call | None:
        """The call that saved this object; for None the latest that saved None: backward runs in
        reverse.
        """
        for call in reversed(self._waiting):
            if call.operation == operation and _is_same(call.saved, saved):
                self._waiting.remove(call)
                call.saved = None
                return call
        return None


def _is_same(kept, saved) -> bool:
    """Whether what forward saved is what backward has, apart from an input of a Linear that was
    made again (layers/made_again.py).
    """
    if isinstance(kept, LinearSaved) and isinstance(saved, LinearSaved):
        return all(own is other for own, other in zip(kept[1:], saved[1:]))
    return kept is saved


def _frames() -> list[Frame]:
    """The frames of the callers, innermost first, without wrappers."""
    frames, frame = [], sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename != __file__:
            owner = frame.f_locals.get("self")
            frames.append(Frame(frame.f_code, frame.f_lineno, owner.name if isinstance(owner, Layer) else ""))
            if isinstance(owner, Layer) and not owner.name:  # the model itself
                break
        frame = frame.f_back
    return frames
