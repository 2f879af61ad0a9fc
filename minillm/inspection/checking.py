"""The gradient of one tensor of a model against finite differences, on the spot.

A few elements are tried: the one with the largest gradient, some drawn among those that have one, some drawn among all. To each
a number t is added, to a parameter in its place and to an activation where it comes by in forward, and

    dL/dt at t = 0

is measured in float64 as in minillm.gradcheck. The weights and activations of a model span orders of magnitude, so no single
step suits them all: the step begins at the tensor's own size and is halved, and the measurements are extrapolated to a step
of 0 (Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4, 1982). That also says how
far off the result may be. The hand-written gradient has no say in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from minillm.backend import stream
from minillm.gradcheck import TOLERANCE, finite_differences, relative_errors
from minillm.inspection.observation import Call, Observer, observed
from minillm.inspection.recording import Place, Tensor, model_parameters

HALVINGS = 12  # of the step, which begins at the tensor's size
ROUNDING = 4 * sys.float_info.epsilon  # of a loss, relative, times what the formula makes of it
WITH_GRADIENT, ANYWHERE = 4, 3  # elements that are drawn


@dataclass(frozen=True)
class Element:
    """One element: its index, the hand-written gradient, the finite difference and how far off it may be, and the relative
    error as minillm.gradcheck defines it."""

    index: tuple[int, ...]
    analytic: float
    numeric: float
    uncertainty: float
    error: float


@dataclass(frozen=True)
class Check:
    """The elements of a tensor that were tried."""

    tensor: str
    elements: list[Element]

    @property
    def worst(self) -> Element:
        return max(self.elements, key=lambda element: element.error)

    @property
    def passed(self) -> bool:
        return all(element.error <= TOLERANCE for element in self.elements)  # so written, NaN fails


def check_tensor(model, ids, targets, tensor: Tensor, gradient: np.ndarray) -> Check:
    """Compare some elements of `gradient` with finite differences of `model.loss(ids, targets)`.

    model: in float64, on the CPU, and left in evaluation mode; tensor, gradient: from its record.
    """
    chosen = choose_elements(tensor.name, gradient)
    offsets = np.zeros(len(chosen))
    size = float(np.hypot(tensor.values.mean, tensor.values.spread)) or 1.0
    with _shifted_loss(model.eval(), ids, targets, tensor, chosen, offsets) as loss:
        measured = [_derivative(loss, offsets[number : number + 1], size) for number in range(len(chosen))]
    analytic, numeric = gradient.reshape(-1)[chosen], np.array([value for value, _ in measured])
    return Check(
        tensor.name,
        [
            Element(tuple(map(int, np.unravel_index(index, gradient.shape))), float(a), n, uncertainty, float(error))
            for index, a, (n, uncertainty), error in zip(chosen, analytic, measured, relative_errors(analytic, numeric))
        ],
    )


def choose_elements(name: str, gradient: np.ndarray) -> np.ndarray:
    """Positions in the flat gradient: of the largest, of WITH_GRADIENT others that are not 0, and of ANYWHERE more."""
    flat, numbers = np.abs(gradient.reshape(-1)), stream("inspect", name)
    learning = np.flatnonzero(flat)
    chosen = [int(flat.argmax())]
    if len(learning):
        chosen += learning[numbers.integers(len(learning), WITH_GRADIENT)].tolist()
    chosen += numbers.integers(flat.size, ANYWHERE).tolist()
    return np.array(list(dict.fromkeys(chosen)))


def _derivative(loss: Callable[[], float], offset: np.ndarray, size: float) -> tuple[float, float]:
    """(dloss/doffset at offset 0, how far off it may be); offset: an array of one number that loss reads.

    The error of a measurement with step h is a series in h^4, h^6, ...: two of them, with h and h/2, together lose the first
    term, three of them the second. The result is the entry of this triangle that differs least from those it was made of, the
    rounding of the loss included, which grows as h shrinks; when that alone is larger than the best, it is time to stop.
    """
    rounding = ROUNDING * abs(loss()) / size
    best, above = (np.inf, np.nan), []
    for halvings in range(HALVINGS):
        step = 0.5**halvings
        row = [float(finite_differences(loss, offset, step * size)[0])]
        for column, coarser in enumerate(above):
            factor = 2.0 ** (4 + 2 * column)
            row.append((factor * row[-1] - coarser) / (factor - 1))
            apart = max(abs(row[-1] - row[-2]), abs(row[-1] - coarser))
            best = min(best, (apart + rounding / step, row[-1]))
        if rounding / step > best[0]:
            break
        above = row
    return best[1], best[0]


# ------------------------------------------------------------------------------------------------------ adding to a tensor


@contextmanager
def _shifted_loss(model, ids, targets, tensor: Tensor, chosen, offsets) -> Iterator[Callable[[], float]]:
    """A function that returns the loss with `offsets` added to the `chosen` elements of a tensor."""
    if tensor.place is not None:
        shift = _Shift(tensor.place, chosen, offsets)
        with observed(model, shift):

            def loss() -> float:
                shift.passed = 0
                return float(model.loss(ids, targets))

            yield loss
        return
    value = model_parameters(model)[tensor.name].value
    where = np.unravel_index(chosen, value.shape)
    before = value[where]

    def loss() -> float:
        value[where] = before + offsets
        return float(model.loss(ids, targets))

    yield loss  # after which the offsets are 0 again


class _Shift(Observer):
    """Adds `offsets` to the elements `chosen` (flat positions) of the tensor at `place` whenever it comes by."""

    def __init__(self, place: Place, chosen, offsets):
        self._place, self._chosen, self._offsets = place, chosen, offsets
        self.passed = 0  # elements of a tensor that comes in parts

    def before_operation(self, call: Call) -> None:
        if self._place.side == "input" and self._is_at(call):
            arguments = call.arguments.arguments
            arguments[self._place.key] = self._shifted(arguments[self._place.key])

    def after_operation(self, call: Call) -> None:
        if self._place.side == "output" and self._is_at(call):
            outputs = list(call.outputs)
            outputs[self._place.key] = self._shifted(outputs[self._place.key])
            call.outputs = tuple(outputs)

    def after_layer(self, layer, output, frames):
        at_layer = self._place.operation is None and layer.name == self._place.layer
        return self._shifted(output) if at_layer else output

    def _is_at(self, call: Call) -> bool:
        place = self._place
        return (call.layer, call.operation) == (place.layer, place.operation) and place.index in (None, call.index)

    def _shifted(self, array):
        shifted = np.array(array, order="C")
        here = (self.passed <= self._chosen) & (self._chosen < self.passed + shifted.size)
        shifted.reshape(-1)[self._chosen[here] - self.passed] += self._offsets[here]
        if self._place.index is None:
            self.passed += shifted.size
        return shifted
