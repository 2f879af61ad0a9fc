"""A user's forward and backward functions, called as `gradcheck` calls a pair.

What comes out is a `Problem`: forward(*arrays) -> y, saved and backward(dy, saved) -> the gradients
of the arrays, in their order. There are five kinds of functions, by what they take and return:

    y, cache = affine_forward(x, w, b)         dx, dw, db = affine_backward(dout, cache)
    y = relu(x)                                dx = relu_grad(dout, x)
    y = sigmoid(x)                             slope = sigmoid_prime(x), or of y
    loss, dx = softmax_loss(x, labels)
    norm_forward(out, mean, x, w, ...)         norm_backward(dx, dw, dout, x, w, mean, ...): arrays to be filled
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from minillm.checks.own_code.arguments import Source, assigned, bind, is_cache
from minillm.checks.own_code.loading import RandomNumbers
from minillm.checks.own_code.shapes import is_one_hot
from minillm.checks.own_code.source import Code, base_name, code_of
from minillm.checks.own_code.values import Ask, is_float
from minillm.errors import UserError


class BackwardRaises(Exception):
    """A user's backward raised, of inputs with which forward runs; `why` is what."""

    def __init__(self, why: Exception):
        super().__init__(f"backward raises {type(why).__name__}: {why}")
        self.why = why


@contextmanager
def in_backward() -> Iterator[None]:
    """Says of an exception that it came from backward. Questions to the user pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise BackwardRaises(error) from error


@dataclass
class Problem:
    """What `gradcheck` needs: a layer, or a pair (forward, backward), and its inputs by name.

    fits: whether each gradient has the shape of its array: of several choices of shapes, one that
    fits is taken. notes: what is not checked, and why.
    """

    subject: object
    inputs: dict[str, np.ndarray]
    fits: bool = True
    notes: list[str] = field(default_factory=list)


def flattened(values: dict) -> dict[str, np.ndarray]:
    """The float arrays of arguments by name, those in dicts as params['W']."""
    found = {}
    for name, value in values.items():
        if is_float(value):
            found[name] = value
        elif isinstance(value, dict):
            found |= {f"{name}[{key!r}]": each for key, each in value.items() if is_float(each)}
    return found


def with_arrays(values: dict, arrays: dict[str, np.ndarray]) -> dict:
    """Copies of the arguments with these arrays in their places."""
    memo = {id(old): arrays[name] for name, old in flattened(values).items() if name in arrays}
    return copy.deepcopy(values, memo)


def result_name(names: list[str | None], arguments) -> str:
    """The name of the one result of a forward whose `return` has these names. An expression is
    called y, unless an argument is.
    """
    if len(names) == 1 and names[0]:
        return names[0]
    return "y" if "y" not in arguments else "result 0"


@dataclass
class PairCall:
    """A forward and its backward, None for a function that returns loss and gradients at once.

    module: whose hidden random generators begin anew in each call. of_output: of the Maker.
    """

    module: ModuleType
    forward: Callable
    backward: Callable | None
    of_output: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self):
        self._random = RandomNumbers(self.module)

    def problem(self, values: dict) -> Problem:
        """The problem with these arguments.

        Raises Ask where it is not clear what belongs to what, and whatever the user's functions
        raise.
        """
        code = code_of(self.forward)
        buffers = tuple(name for name in code.names if code.writes_into(name)) if not code.returned else ()
        returned = self._returned(values, buffers)
        if self.backward is None:
            return self._loss_with_gradients(values, returned)
        backward = code_of(self.backward)
        sources = bind(code, backward, values, returned, buffers)
        upstream = [s.what for s in sources if s.kind == "upstream"]
        y = next(name for name in returned if name not in buffers or name in upstream)
        outputs = upstream or [y]
        arrays = {n: x for n, x in flattened(values).items() if n not in buffers}

        def forward(*given):
            arguments = with_arrays(values, dict(zip(tensors, given)))
            found = self._returned(arguments, buffers)
            ys = tuple(np.asarray(found[name]) for name in outputs)
            return (ys if len(ys) > 1 else ys[0]), (arguments, found)

        def gradients(dy, saved, of_output=False):
            arguments, found = saved
            dys = dict(zip(outputs, dy if len(outputs) > 1 else (dy,)))
            made = self._call_backward(sources, arguments, found, dys, of_output)
            if not upstream:
                made = {name: _times(dy, gradient, found[y]) for name, gradient in made.items()}
            return made

        tensors = list(arrays)
        ys, saved = forward(*arrays.values())
        dys = tuple(np.ones_like(each) for each in ys) if len(outputs) > 1 else np.ones_like(ys)
        with in_backward():
            probe = gradients(dys, saved)
        notes = [f"{name}: backward returns no gradient for it: not checked" for name in tensors if name not in probe
                 and not _is_a_label(name, code) and self._acts(forward, arrays, name)]  # fmt: skip
        tensors = [name for name in tensors if name in probe]
        inputs = {name: arrays[name] for name in tensors}
        fits = all(np.shape(probe[name]) == x.shape for name, x in inputs.items())
        of_output = self.of_output.get(backward.name, False)
        is_slope = not upstream and len(tensors) == 1 and fits and np.shape(saved[1][y]) == inputs[tensors[0]].shape
        if is_slope and backward.name not in self.of_output:
            of_output = self.of_output[backward.name] = self._is_of_output(forward, gradients, inputs[tensors[0]])
            if of_output:
                notes.append(
                    f"{backward.name} is the slope in terms of y: it takes the result of {code.name}, not its argument"
                )

        def backward_of(dy, saved):
            made = gradients(dy, saved, of_output)
            return tuple(np.asarray(made[name]) for name in tensors)

        return Problem(
            (forward, backward_of),
            inputs, fits, notes,
        )  # fmt: skip

    def _returned(self, arguments: dict, buffers: tuple[str, ...]) -> dict[str, object]:
        """What forward returns, by name; the arrays that it fills, if it fills some."""
        for name in buffers:
            arguments[name][...] = 0
        with self._random():
            result = self.forward(**arguments)
        if buffers:
            return {name: arguments[name] for name in buffers}
        if result is None:
            raise Ask(f"{self.forward.__name__} returns nothing, and fills no array that it is given: return y")
        names = code_of(self.forward).returned
        if not isinstance(result, tuple):
            return {result_name(names, arguments): result}
        names = names if len(names) == len(result) else [None] * len(result)
        found: dict[str, object] = {}
        for index, (name, value) in enumerate(zip(names, result)):
            found[name if name and name not in found else f"result {index}"] = value
        return found

    def _call_backward(self, sources: list[Source], arguments, returned, dys, of_output) -> dict[str, object]:
        given, buffers = {}, {}
        for source in sources:
            if source.kind == "upstream":
                given[source.argument] = np.array(dys[source.what])
            elif source.kind == "buffer":
                buffers[source.what] = given[source.argument] = np.zeros_like(arguments[source.what])
            elif source.kind == "value":
                given[source.argument] = source.what
            elif source.kind == "kept":
                names = source.what
                given[source.argument] = (
                    tuple(returned[name] for name in names) if isinstance(names, tuple) else returned.get(names)
                )
            elif of_output and source.what in flattened(arguments):
                given[source.argument] = next(iter(returned.values()))
            else:
                given[source.argument] = {**arguments, **returned}[source.what]
        with self._random(seed=1):
            result = self.backward(**given)
        if buffers:
            return buffers
        return self._gradients(result, code_of(self.backward).returned, arguments)

    def _gradients(self, result, names: list[str | None], arguments: dict) -> dict[str, object]:
        arrays = flattened(arguments)
        shapes = {name: x.shape for name, x in arrays.items()}
        if result is None:
            raise Ask(f"{self.backward.__name__} returns nothing, and fills no array that it is given: return dx, ...")
        if isinstance(result, dict):
            return assigned(list(result), list(arrays), shapes, list(result.values()))
        several = isinstance(result, (tuple, list))
        return assigned(names, list(arrays), shapes, list(result) if several else [result])

    def _loss_with_gradients(self, values: dict, returned: dict) -> Problem:
        """loss, dx = f(x, y); loss, grads = f(...)"""
        names = list(returned)
        arrays = flattened(values)

        def gradients(found):
            rest = [(name, found[name]) for name in names[1:]]
            if len(rest) == 1 and isinstance(rest[0][1], dict):
                rest = list(rest[0][1].items())
            rest = [(name, g) for name, g in rest if isinstance(g, (np.ndarray, float, np.number))]
            if len(named := [(name, g) for name, g in rest if base_name(name) in arrays]) > 2:
                rest = named
            shapes = {name: x.shape for name, x in arrays.items()}
            return assigned([n for n, _ in rest], list(arrays), shapes, [g for _, g in rest])

        probe = gradients(returned)
        tensors = [name for name in arrays if name in probe]

        def forward(*given):
            found = self._returned(with_arrays(values, dict(zip(tensors, given))), ())
            return np.asarray(found[names[0]]), found

        inputs = {name: arrays[name] for name in tensors}
        fits = all(np.shape(probe[name]) == x.shape for name, x in inputs.items())
        return Problem(
            (forward, lambda dy, found: tuple(dy * np.asarray(gradients(found)[name]) for name in tensors)),
            inputs,
            fits,
        )

    def _acts(self, forward, arrays: dict, name: str) -> bool:
        """Whether the result depends on an array."""
        before, _ = forward(*arrays.values())
        after, _ = forward(*(x + 0.1 if each == name else x for each, x in arrays.items()))
        return not np.array_equal(before, after, equal_nan=True)

    def _is_of_output(self, forward, gradients, x) -> bool:
        """Whether a slope is given in terms of y = forward(x), as the sigmoid's y (1 - y) is."""
        step, (y, saved) = 1e-6, forward(x)
        measured = (forward(x + step)[0] - forward(x - step)[0]) / (2 * step)
        try:
            with np.errstate(all="ignore"):
                of_x, of_y = (np.asarray(gradients(np.ones_like(y), saved, by)[next(iter(gradients(np.ones_like(y), saved)))])
                              for by in (False, True))  # fmt: skip
        except (ValueError, TypeError, IndexError):
            return False
        return not np.allclose(of_x, measured, atol=1e-6) and np.allclose(of_y, measured, atol=1e-6)


def _times(dy, slope, y):
    """dy times what a function without an argument for dy returns: a slope for each number, the
    gradient of a loss, or a matrix of dy_i / dx_j for each row.
    """
    slope, dy = np.asarray(slope), np.asarray(dy)
    if dy.ndim == 0 or slope.shape == dy.shape:
        return dy * slope
    if slope.shape == (*dy.shape, dy.shape[-1]):
        return np.einsum("...i,...ij->...j", dy, slope)
    return np.broadcast_to(dy, slope.shape) * slope if dy.size == 1 else slope


def _is_a_label(name: str, code: Code) -> bool:
    return (
        bool(code.indexes(name))
        or is_one_hot([code], name)
        or name.lower() in ("y", "t", "labels", "targets", "target", "y_true", "label")
    )


def looks_like_loss(code: Code) -> bool:
    """Whether a function returns a loss together with its gradients: return loss, dx."""
    names = code.returned
    if len(names) < 2 or names[0] is None or base_name(names[0]) or is_cache(names[0], None):
        return False
    rest = [name or "" for name in names[1:]]
    arguments = set(code.names)
    of_arguments = [
        n for n in rest if n in ("grad", "grads", "gradients") or base_name(n).lower() in {a.lower() for a in arguments}
    ]
    return len(of_arguments) == len(rest) or len(of_arguments) > 2  # with a state, as return loss, dW, dU, db, h
