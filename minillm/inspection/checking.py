"""The gradient of one tensor of a model against finite differences, inside the model.

A few elements are checked: the one with the largest gradient, some drawn among those with a
gradient, some drawn among all. To each a number t is added (to a parameter in place, to an
activation during the forward pass), and

    dL/dt at t = 0

is measured in float64, by the method that minillm.checks.gradcheck uses for doubtful elements
(verdicts.py): with steps of the tensor's own size, halved and extrapolated to a step of 0. This
also gives an uncertainty. The hand-written gradient is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks.differences import guarded
from minillm.checks.verdicts import PASSED, UNTOLD, WRONG, judge
from minillm.inspection.observation import Call, Observer, observed
from minillm.inspection.recording import Place, Tensor, model_parameters

WITH_GRADIENT, ANYWHERE = 4, 3  # elements that are drawn


@dataclass(frozen=True)
class Element:
    """One checked element.

    analytic: the hand-written gradient. numeric, uncertainty: the finite difference and its
    possible error. error: relative, as minillm.checks.gradcheck defines it. reason: why the verdict
    is not "passed".
    """

    index: tuple[int, ...]
    analytic: float
    numeric: float
    uncertainty: float
    error: float
    verdict: str = PASSED
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """The checked elements of a tensor."""

    tensor: str
    elements: list[Element]

    @property
    def worst(self) -> Element:
        return max(self.elements, key=lambda e: ((PASSED, UNTOLD, WRONG).index(e.verdict), e.error))

    @property
    def verdict(self) -> str:
        """The verdict, "passed", "wrong" or "cannot be told here": the worst of all elements."""
        return self.worst.verdict

    @property
    def passed(self) -> bool:
        return self.verdict == PASSED


def check_tensor(model, ids, targets, tensor: Tensor, gradient: np.ndarray) -> Check:
    """Compare some elements of `gradient` with finite differences of `model.loss(ids, targets)`.

    model: in float64, on the CPU; it is left in evaluation mode. tensor, gradient: from its record.
    """
    chosen = choose_elements(tensor.name, gradient)
    return Check(tensor.name, list(checked_elements(model, ids, targets, tensor, gradient, chosen)))


def checked_elements(model, ids, targets, tensor: Tensor, gradient, chosen) -> Iterator[Element]:
    """The elements `chosen`, flat positions, of that check, one after another.

    Between two of them the model is not observed, and has its own numbers.
    """
    size = float(np.hypot(tensor.values.mean, tensor.values.std)) or 1.0
    largest = float(np.abs(gradient[np.isfinite(gradient)]).max(initial=0.0))
    magnitude = abs(float(model.eval().loss(ids, targets)))
    for index in chosen:
        value, offsets = float(gradient.reshape(-1)[index]), np.zeros(1)
        shifted = _shifted_loss(model, ids, targets, tensor, np.array([index]), offsets)
        with shifted as loss, np.errstate(all="ignore"):
            found = judge(guarded(_of_offset(loss, offsets)), value, largest, size, size, magnitude)
        place = tuple(map(int, np.unravel_index(index, gradient.shape)))
        yield Element(place, value, found.numeric, found.uncertainty, found.error, found.verdict, found.reason)


def choose_elements(name: str, gradient: np.ndarray) -> np.ndarray:
    """Positions in the flat gradient: the largest, WITH_GRADIENT non-zero, and ANYWHERE more."""
    flat, numbers = np.abs(gradient.reshape(-1)), stream("inspect", name)
    learning = np.flatnonzero(flat)
    chosen = [int(flat.argmax())]
    if len(learning):
        chosen += learning[numbers.integers(len(learning), WITH_GRADIENT)].tolist()
    chosen += numbers.integers(flat.size, ANYWHERE).tolist()
    return np.array(list(dict.fromkeys(chosen)))


def _of_offset(loss: Callable[[], float], offsets: np.ndarray) -> Callable[[float], float]:
    """The loss as a function of the offset, which is reset to 0 afterwards."""

    def f(t: float) -> float:
        offsets[0] = t
        try:
            return loss()
        finally:
            offsets[0] = 0.0

    return f


# ------------------------------------------------------------------------------------------------------ adding to a tensor


@contextmanager
def _shifted_loss(model, ids, targets, tensor: Tensor, chosen, offsets) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the loss with `offsets` added to the `chosen` elements of a
    tensor.
    """
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

    try:
        yield loss
    finally:
        value[where] = before


class _Shift(Observer):
    """Adds `offsets` to the elements `chosen` (flat positions) of the tensor at `place` in every
    pass.
    """

    def __init__(self, place: Place, chosen, offsets):
        self._place, self._chosen, self._offsets = place, chosen, offsets
        self.passed = 0  # elements already passed of a tensor that is computed in parts

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
