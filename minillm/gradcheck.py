"""Finite differences against hand-written gradients.

A gradient says how the loss changes when one number changes a little. That can simply be tried, for every number:

    df/dx ~ (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / (12 h)

(Abramowitz, Stegun, "Handbook of Mathematical Functions", 25.3.6.) The two larger steps cancel the error of order h^2, which
leaves h^4: with h = 1e-3 about 1e-13, as much as the rounding of float64 in f leaves after division by h. A difference of
the simplest kind, with errors near 1e-6 at best, could not tell a correct gradient from one that is wrong in its seventh digit.

A layer's output is no single number, so it is summed with fixed random weights: f(x) = sum(weights * forward(x)). Then the
gradient that arrives from above is those weights, and a mistake in any output shows.

The error of an element is |a - n| / max(|a|, |n|, 1e-3 max |n'|), where a is the hand-written gradient, n the finite
difference, and n' runs over the tensor. The last term only matters for elements more than 1,000 times smaller than the
tensor's largest: there, n has lost three digits to rounding, and an error is measured on the scale of the tensor.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minillm.backend import stream
from minillm.layers.layer import Layer

TOLERANCE = 1e-6
STEP = 1e-3
FLOOR = 1e-3


@dataclass(frozen=True)
class Row:
    """One tensor: its worst element `where`, with the hand-written (`analytic`) and the finite-difference gradient there."""

    tensor: str
    shape: tuple[int, ...]
    error: float
    where: tuple[int, ...]
    analytic: float
    numeric: float


@dataclass(frozen=True)
class Report:
    """The result of a check: a row for every tensor, and the step h that was used."""

    name: str
    rows: tuple[Row, ...]
    step: float

    @property
    def worst(self) -> Row:
        return max(self.rows, key=lambda row: row.error)

    def __str__(self) -> str:
        lines = (f"{row.tensor:<40} {str(row.shape):<14} {row.error:.1e} at {row.where}" for row in self.rows)
        return "\n".join((f"{self.name}, step {self.step:g}", *lines))


class GradientError(AssertionError):
    """A hand-written gradient differs from the finite differences. `report` has all rows."""

    def __init__(self, report: Report, tolerance: float):
        row = report.worst
        super().__init__(
            f"{report.name}: the gradient of {row.tensor} {row.shape} is wrong at {row.where}: backward gives "
            f"{row.analytic:.10g}, finite differences with step {report.step:g} give {row.numeric:.10g}, "
            f"relative error {row.error:.2e} (tolerance {tolerance:g})"
        )
        self.report = report


def gradcheck(subject, *inputs, key=None, tolerance: float = TOLERANCE, step: float = STEP, name: str = "") -> Report:
    """Check every gradient of a layer, a model, or a pair of functions in float64.

    subject: a Layer (its parameters and its float inputs are checked); a model, with inputs ids and targets (every
    parameter, through `loss`); or a pair (forward, backward) with forward(*inputs) -> y, saved and backward(dy, saved) -> the
    gradients of the float inputs in their order. Inputs of integers are held. key: passed to forward, for dropout.

    Returns a Report; raises GradientError, naming the worst element, if an error is above `tolerance` or not a number, and
    TypeError if anything is not float64: in float32 rounding would hide what is looked for.
    """
    if isinstance(subject, tuple):
        name = name or subject[0].__name__.removesuffix("_forward")
        probe = _PairProbe(*subject, inputs)
    elif hasattr(subject, "loss"):
        name = name or type(subject).__name__
        probe = _ModelProbe(subject, inputs, key)
    else:
        name = name or type(subject).__name__
        probe = _LayerProbe(subject, inputs, key)
    for tensor, array in probe.tensors.items():
        if array.dtype != np.float64:
            raise TypeError(
                f"{name}: {tensor} is {array.dtype}, gradients are checked in float64: make it with that dtype"
            )
    output = np.asarray(probe.forward())
    weights = np.ones(()) if output.ndim == 0 else stream("gradcheck", name).normal(output.shape)
    gradients = {tensor: np.array(gradient) for tensor, gradient in probe.backward(weights).items()}

    def loss() -> float:
        return float((weights * probe.forward()).sum())

    rows = tuple(_check_tensor(tensor, array, gradients[tensor], loss, step) for tensor, array in probe.tensors.items())
    report = Report(name, rows, step)
    if not all(row.error <= tolerance for row in rows):  # so written, NaN fails
        raise GradientError(report, tolerance)
    return report


def finite_differences(loss: Callable[[], float], array: np.ndarray, step: float = STEP) -> np.ndarray:
    """The gradient of `loss` with respect to `array`, which it reads and which is changed element by element and restored."""
    flat, gradient = array.reshape(-1), np.empty(array.size)
    if not np.shares_memory(flat, array):
        raise ValueError("finite differences need a contiguous array: they change it in place")
    for index in range(flat.size):
        value = flat[index]
        f = []
        for multiple in (1, -1, 2, -2):
            flat[index] = value + multiple * step
            f.append(loss())
        flat[index] = value
        gradient[index] = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * step)
    return gradient.reshape(array.shape)


def relative_errors(analytic: np.ndarray, numeric: np.ndarray) -> np.ndarray:
    """The error of each element as defined above; infinite where one of the two is no finite number."""
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), FLOOR * np.abs(numeric).max(initial=0))
    error = np.abs(analytic - numeric) / np.maximum(scale, np.finfo(float).tiny)
    error[~np.isfinite(error)] = np.inf
    # an element that nothing depends on: both gradients are rounding errors of a loss of order 1
    error[np.maximum(np.abs(analytic), np.abs(numeric)) < 1e-11] = 0
    return error


def _check_tensor(tensor: str, array, analytic, loss, step) -> Row:
    if analytic.shape != array.shape:
        return Row(tensor, array.shape, np.inf, (), np.nan, np.nan)
    numeric = finite_differences(loss, array, step)
    error = relative_errors(analytic, numeric)
    where = np.unravel_index(np.argmax(error), error.shape) if error.size else ()
    where = tuple(int(index) for index in where)
    return Row(tensor, array.shape, float(error[where]), where, float(analytic[where]), float(numeric[where]))


# ----------------------------------------------------------------------------------------- what is checked, made alike


def _float_inputs(inputs) -> tuple[list, dict[str, np.ndarray]]:
    """Copies of the inputs, and those among them that have gradients, by name."""
    copies = [np.array(x) if isinstance(x, np.ndarray) else x for x in inputs]
    tensors = {f"input {i}": x for i, x in enumerate(copies) if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    return copies, tensors


def _as_tuple(gradients) -> tuple:
    return gradients if isinstance(gradients, tuple) else (gradients,)


def _fresh(inputs) -> list:
    """Copies again: a function may write over its inputs, as cross_entropy does."""
    return [x.copy() if isinstance(x, np.ndarray) else x for x in inputs]


class _PairProbe:
    """A pair of pure functions."""

    def __init__(self, forward, backward, inputs):
        self._forward, self._backward = forward, backward
        self._inputs, self.tensors = _float_inputs(inputs)

    def forward(self):
        y, self._saved = self._forward(*_fresh(self._inputs))
        return y

    def backward(self, dy) -> dict:
        gradients = [gradient for gradient in _as_tuple(self._backward(dy, self._saved)) if gradient is not None]
        return dict(zip(self.tensors, gradients, strict=True))


class _LayerProbe:
    """A layer: its inputs and its parameters."""

    def __init__(self, layer: Layer, inputs, key):
        self._layer, self._key = layer, {} if key is None else {"key": key}
        self._inputs, self.tensors = _float_inputs(inputs)
        self._input_names = tuple(self.tensors)
        self.tensors |= {name: parameter.value for name, parameter in _learning(layer).items()}

    def forward(self):
        return self._layer.train().forward(*_fresh(self._inputs), **self._key)

    def backward(self, dy) -> dict:
        self._layer.zero_grad()
        gradients = [gradient for gradient in _as_tuple(self._layer.backward(dy)) if gradient is not None]
        found = dict(zip(self._input_names, gradients, strict=True))
        found |= {name: _gradient_of(name, parameter) for name, parameter in _learning(self._layer).items()}
        self._layer.zero_grad()
        return found


class _ModelProbe:
    """A model's loss: all parameters."""

    def __init__(self, model, inputs, key):
        self._model, self._inputs, self._key = model, inputs, key
        self.tensors = {name: parameter.value for name, parameter in _learning(model).items()}

    def forward(self):
        return self._model.train().loss(*self._inputs, key=self._key)

    def backward(self, dy) -> dict:
        self._model.zero_grad()
        self._model.backward()
        found = {name: np.array(_gradient_of(name, p)) for name, p in _learning(self._model).items()}
        self._model.zero_grad()
        return found


def _learning(layer) -> dict:
    return {name: parameter for name, parameter in layer.parameters().items() if not parameter.frozen}


def _gradient_of(name, parameter):
    if parameter.grad is None:
        raise RuntimeError(f"backward left no gradient for {name}")
    return np.array(parameter.grad)


class _CallableModule(types.ModuleType):
    """`minillm.gradcheck` is this module once it was imported, and yet `minillm.gradcheck(layer, x)` is how it is used."""

    def __call__(self, *arguments, **settings) -> Report:
        return gradcheck(*arguments, **settings)


sys.modules[__name__].__class__ = _CallableModule
