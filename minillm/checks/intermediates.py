"""Which intermediate of a backward pass is the first wrong one.

A backward goes from dy to dx by steps, and names them after what they are the gradients of: dscores
of scores, dx_hat of x_hat, grad_z of z. The gradient of the loss with respect to any value of
forward can be measured: a little is added to it where forward assigns it, and the rest of forward
runs on.

    f(t) = loss, with scores + t u in the place of scores        f'(0) = sum(dscores * u)

for a random u. What backward has under this name is held against it, in the order of backward's
lines. A name that backward assigns in several steps is right if one of them is: before the last
one a sum is not complete, and after it the memory may serve something else.

Where a name cannot be paired, it is not mentioned: a forward that assigns it in a loop, functions
that are called several times, gradients of another shape.
"""

from __future__ import annotations

import linecache
import re
import types
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks.differences import ROUNDING, by_five_points, extrapolated, five_points, guarded, power_of_two
from minillm.checks.instrumented import Event, Taps, called_functions, watched
from minillm.checks.own_code.source import base_name, forward_of, same_name
from minillm.checks.subjects import Subject
from minillm.checks.verdicts import relative_errors

AGREE = 1e-6  # relative, of the derivative along a direction
MOST = 40  # names that are measured
LARGEST = 400  # numbers of a tensor that are measured one by one, to say where it is wrong
BACKWARDS = (
    "backward",
    "backprop",
    "backward_propagation",
    "bprop",
    "backward_pass",
    "back_propagate",
    "backpropagate",
    "gradient",
)
FORWARDS = ("forward", "__call__", "forward_propagation", "fprop", "forward_pass", "feed_forward", "loss")


@dataclass(frozen=True)
class _Step:
    """A gradient in backward that has been measured.

    event: its assignment, if it is wrong the first one. place: in forward, or the name of a tensor.
    last: the last line that assigns it.
    """

    event: Event
    is_right: bool
    place: int | str
    last: int = 0


def first_wrong(subject: Subject, weights: list[np.ndarray], right: frozenset[str] = frozenset()) -> str:
    """Which intermediate gradient is the first wrong one, in a sentence; "" where it is not known.

    weights: the gradients of the outputs. right: the tensors whose gradients are right. What is
    computed from a wrong step is wrong, so a name that leads to one of them is the gradient of
    something else, as dz of what a sigmoid makes z of. The subject is in training, and its
    gradients are those of no backward.
    """
    steps: list[_Step] = []
    for forward, backward in _pairs(subject, weights):
        watch = _Watch(subject, weights, forward, backward)
        with watched(forward, backward, watch.taps, watch.note):
            watch.run()
            for step in watch.steps():
                if step.is_right:
                    steps.append(step)
                elif not watch.leads_to(step, right):
                    return _sentence(steps, step, watch.error(step)) + watch.doubt(step)
    return _all_right(steps)


def _pairs(subject: Subject, weights) -> list[tuple[types.FunctionType, types.FunctionType]]:
    """(forward, backward) of the functions that run once in a forward and a backward of the
    subject, in the order in which the backwards return: inner ones first.
    """
    forwards = called_functions(subject.forward)
    backwards = called_functions(lambda: _backward(subject, weights))
    once = [function for function, count in forwards.items() if count == 1]
    ran = [function for function, count in backwards.items() if count == 1 + forwards.get(function, 0)]
    found = []
    for backward in ran:
        if (forward := _partner(backward, once)) is not None:
            found.append((forward, backward))
    if not found and len(ran) == 1 and len(once) == 1:
        found = [(once[0], ran[0])]
    return found or [(function, function) for function in once if not ran]  # loss, dx = f(x, y)


def _partner(backward: types.FunctionType, forwards: list[types.FunctionType]) -> types.FunctionType | None:
    """The forward of a backward: of the same module and class, by its name."""
    scope, _, name = backward.__qualname__.rpartition(".")
    near = [f for f in forwards if f.__module__ == backward.__module__ and f.__qualname__.rpartition(".")[0] == scope]
    names = {function.__name__: function for function in near}
    if name in BACKWARDS and scope:
        return next((names[each] for each in FORWARDS if each in names), None)
    return names.get(forward_of(name, names) or "")


def _backward(subject: Subject, weights) -> dict[str, np.ndarray]:
    subject.forward()
    subject._zero_grad()
    gradients = subject._gradients_of(weights)
    subject._zero_grad()
    return gradients


class _Watch:
    """One forward with taps, one backward with notes."""

    def __init__(self, subject, weights, forward, backward):
        self._subject, self._weights, self._forward, self._backward = subject, weights, forward, backward
        self.taps, self._events, self._is_noting = Taps(), [], False
        self._after: dict[str, np.ndarray] = {}  # the gradients with a step corrected
        self._corrected: tuple[str, np.ndarray] | None = None
        self._notes_left = 0

    def note(self, name: str, line: int, value) -> None:
        if not isinstance(value, (np.ndarray, np.floating, float)) or np.asarray(value).dtype.kind != "f":
            return
        if self._is_noting:
            self._events.append(Event(self._backward, name, line, np.array(value)))
        if self._corrected is not None and self._corrected[0] == name:
            self._notes_left -= 1
            right, is_last = self._corrected[1], self._notes_left == 0
            if is_last and isinstance(value, np.ndarray) and value.flags.writeable and value.size == right.size:
                value[...] = right.reshape(value.shape)

    def run(self) -> None:
        """Forward once for the values at the taps, and forward and backward for the gradients."""
        outputs = self._subject.forward()
        self._once = {index for index, count in self.taps.calls.items() if count == 1}
        self._magnitude = float(sum(np.abs(w * y).sum() for w, y in zip(self._weights, outputs))) or 1.0
        self._at = self._loss()
        self._is_noting = True
        if self._forward is self._backward:
            self._subject.forward()
        else:
            _backward(self._subject, self._weights)
        self._is_noting = False

    def steps(self):
        """A _Step for each name of backward that can be measured, in the order of the lines that
        assign them last: before that, a sum is not complete.
        """
        names = list(dict.fromkeys(event.name for event in self._events[::-1] if base_name(event.name)))
        for name in names[: -MOST - 1 : -1]:
            if step := self._judged([event for event in self._events if event.name == name]):
                yield step

    def error(self, step: _Step) -> str:
        """The relative error of a wrong gradient, and where it is."""
        numeric = self._numeric(step)
        if numeric is None:
            return "wrong"
        errors = relative_errors(step.event.value.reshape(-1), numeric.reshape(-1)).reshape(numeric.shape)
        where = tuple(int(i) for i in np.unravel_index(int(errors.argmax()), numeric.shape))
        return f"relative error {errors.max():.1e}{f' at {where}' if where else ''}"

    def leads_to(self, step: _Step, right: frozenset[str]) -> bool:
        """Whether one of the gradients `right` is another one with the measured gradient in the
        place of a wrong step's: then the step is right, and its name says something else.
        """
        name, numeric = step.event.name, self._numeric(step)
        count = sum(event.name == name for event in self._events)
        if numeric is None or self._forward is self._backward or not numeric.ndim:
            return False
        before = _backward(self._subject, self._weights)
        self._corrected, self._notes_left = (name, numeric), count
        try:
            self._after = _backward(self._subject, self._weights)
        finally:
            self._corrected = None
        return any(not np.allclose(self._after[tensor], before[tensor], rtol=1e-5, atol=1e-12) for tensor in right)

    def doubt(self, step: _Step) -> str:
        """What is said where the gradients are wrong still, with the measured gradient in the place
        of a wrong step's.
        """
        for tensor, gradient in self._after.items():
            measured = self._measured(tensor)
            if measured is not None and not self._agrees(replace(step.event, value=gradient), *measured):
                return (
                    f"; with the measured gradient of {base_name(step.event.name)} in its place that of {tensor} is wrong "
                    f"still: there is another fault, or {step.event.name} is the gradient of something else"
                )
        return ""

    def _numeric(self, step: _Step) -> np.ndarray | None:
        """The measured gradient in the place of a step; None if it has too many numbers."""
        value = self._value(step.place)
        if value.size > LARGEST:
            return None
        numeric = np.empty(value.size)
        for index in range(value.size):
            unit = np.zeros_like(value)
            unit.reshape(-1)[index] = 1.0
            numeric[index] = by_five_points(five_points(guarded(self._along(step.place, unit)), 1e-3), 1e-3)
        return numeric.reshape(value.shape)

    def _judged(self, events: list[Event]) -> _Step | None:
        base = base_name(events[0].name)
        known = [(place.index, place.name) for place in self.taps.places.values() if place.index in self._once]
        known += [(name, _last_name(name)) for name in self._subject.tensors]  # weights, which no line assigns
        places = [place for place, name in known if name == base] or [p for p, name in known if same_name(name, base)]
        judged: list[tuple[bool, Event, int | str]] = []
        for place in places[::-1]:
            shape = self._value(place).shape
            fitting = [fitted for event in events if (fitted := _fitted(event, shape)) is not None]
            if fitting and (measured := self._measured(place)) is not None:
                judged += [(self._agrees(event, *measured), event, place) for event in fitting[::-1]]
        if not judged:
            return None
        for is_right, event, place in judged:
            if is_right:
                return _Step(event, True, place)
        (_, latest, place), first = judged[0], judged[-1][1]
        return _Step(replace(latest, line=first.line), False, place, latest.line)

    def _value(self, place: int | str) -> np.ndarray:
        """The value at a tap, or a tensor of the subject."""
        return self._subject.tensors[place] if isinstance(place, str) else self.taps.values[place]

    def _measured(self, place: int | str):
        """(direction, derivative along it, how far off) of a place; None if nothing depends on it,
        or if it cannot be measured.
        """
        value = self._value(place)
        direction = np.asarray(stream("intermediate", place, value.size).normal(value.shape))
        f = guarded(self._along(place, direction))
        size = power_of_two(float(np.sqrt(np.mean(np.square(value)))) if value.size else 1.0)
        if not value.size or f(size) == self._at == f(-size):
            return None
        derivative, off = extrapolated(f, size, ROUNDING * self._magnitude)
        return (direction, derivative, off) if np.isfinite(derivative) else None

    def _agrees(self, event: Event, direction, derivative: float, off: float) -> bool:
        along = float(np.sum(event.value * direction))
        scale = float(np.linalg.norm(event.value) * np.linalg.norm(direction))
        return abs(along - derivative) <= AGREE * max(scale, abs(derivative)) + off

    def _along(self, place: int | str, direction: np.ndarray):
        """The loss as a function of t, with t times the direction added at a place."""

        def at_a_tap(t: float) -> float:
            self.taps.added = (place, t * direction)
            try:
                return self._loss()
            finally:
                self.taps.added = None

        def of_a_tensor(t: float) -> float:
            array = self._subject.tensors[place]
            before = array.copy()
            array += t * direction
            try:
                return self._loss()
            finally:
                array[...] = before

        return of_a_tensor if isinstance(place, str) else at_a_tap

    def _loss(self) -> float:
        return float(sum((w * y).sum() for w, y in zip(self._weights, self._subject.forward())))


def _fitted(event: Event, shape: tuple[int, ...]) -> Event | None:
    """The event with its value in a shape, which may have several axes in the place of rows."""
    value = event.value
    if value.shape == shape:
        return event
    if value.ndim and len(shape) > value.ndim and value.size == np.prod(shape) and value.shape[-1] == shape[-1]:
        return replace(event, value=value.reshape(shape))
    return None


def _last_name(tensor: str) -> str:
    """The last name in that of a tensor: "W" of layers[0].W and of params['W']."""
    return re.findall(r"\w+", tensor)[-1] if re.search(r"\w", tensor) else tensor


def _sentence(right: list[_Step], wrong: _Step, error: str) -> str:
    before = _listed(right)
    ends = f"; {before} before it {'is' if len(right) == 1 else 'are'} right" if before else ""
    return f"first wrong: {_where(wrong.event, wrong.last)} ({error}){ends}"


def _all_right(steps: list[_Step]) -> str:
    if not steps:
        return ""
    last = steps[-1].event
    verb = "is" if len(steps) == 1 else "are"
    return f"{_listed(steps)} {verb} right up to line {last.line}: what is wrong comes after that, or beside it"


def _where(event: Event, last: int) -> str:
    file = event.owner.__code__.co_filename
    text = " ".join(linecache.getline(file, event.line).split()).split("  #")[0].split(" # ")[0]
    lines = f"{event.line}" if last == event.line else f"{event.line} to {last}"
    return f"{Path(file).name}:{lines}: {text}"


def _listed(steps: list[_Step]) -> str:
    names = list(dict.fromkeys(step.event.name for step in steps))
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
