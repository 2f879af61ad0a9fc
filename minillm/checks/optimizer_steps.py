"""Steps of an optimizer against its formula (optimizer_formulas.py), number by number, in float64.

`check_optimizer` takes three steps with parameters of different shapes, layouts and roles: a
learning rate that changes, gradients that are scaled, a weight decay and an eps that are large
enough to be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks import optimizer_formulas as formulas
from minillm.checks.verdicts import relative_errors
from minillm.layers.parameter import Parameter

TOLERANCE = 1e-10
SETTINGS = dict(betas=(0.6, 0.9), eps=0.1, weight_decay=0.3)
LEARNING_RATES = 0.05, 0.2, 0.1
GRADIENT_SCALE = 0.5
MUON = dict(momentum=0.7, adamw_lr=0.02)
# name -> (shape, axis of the outputs or None, whether it lies in columns)
TENSORS = {
    "square": ((3, 4), 0, False),
    "long": ((2, 5), 0, False),
    "tall": ((5, 2), 0, False),
    "inputs first": ((2, 4), 1, False),
    "in columns": ((3, 4), 0, True),
    "without a gradient so far": ((2, 3), 0, False),
    "table": ((4, 3), None, True),
    "vector": ((5,), None, False),
    "one number": ((1,), None, False),
    "nothing": ((0,), None, False),
}
Numbers = dict[str, dict[str, np.ndarray]]  # "value", or the name of a state -> tensor -> its numbers


class FormulaError(AssertionError):
    """An optimizer does something else than its formula; the message names the number."""


def check_optimizer(name: str, kind: type) -> None:
    """Raises FormulaError where a step of the class `kind` is not that of the formula `name`, or
    where it goes on without a gradient.
    """
    parameters = {tensor: parameter_of(tensor) for tensor in TENSORS}
    more = MUON if name == "muon" else {}
    optimizer = kind(parameters, lr=LEARNING_RATES[0], **SETTINGS, **more)
    _check_missing_gradients(optimizer, parameters)
    for t, lr in enumerate(LEARNING_RATES, start=1):
        for tensor, parameter in parameters.items():
            parameter.grad = gradient(tensor, t)
        optimizer.lr = lr
        optimizer.step(GRADIENT_SCALE)
        found = {"value": {tensor: parameter.value for tensor, parameter in parameters.items()}, **optimizer.state}
        _compare_all(f"{name}, step {t}", found, expected_steps(name)[t - 1])
    optimizer.zero_grad()
    if any(parameter.grad is not None for parameter in parameters.values()):
        raise FormulaError(f"{name}: zero_grad leaves a gradient")


@cache
def expected_steps(name: str) -> list[Numbers]:
    """What the formula gives after each of the steps."""
    step = _muon_step if name == "muon" else _steps_ofnumbers_of(*FORMULAS[name])
    states = STATES[name]
    numbers: Numbers = {"value": {tensor: start(tensor) for tensor in TENSORS}}
    for state in states:
        numbers[state] = {tensor: np.zeros(TENSORS[tensor][0]) for tensor in TENSORS}
    found = []
    for t, lr in enumerate(LEARNING_RATES, start=1):
        numbers = step(numbers, t, lr)
        found.append(numbers)
    return found


FORMULAS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "adamw": (formulas.adamw, ("t", "betas", "eps")),
    "adam": (formulas.adam, ("t", "betas", "eps")),
    "lion": (formulas.lion, ("betas",)),
    "sgd": (formulas.sgd, ("beta",)),
}
STATES = {
    "adamw": ("first_moment", "second_moment"),
    "adam": ("first_moment", "second_moment"),
    "lion": ("momentum",),
    "sgd": ("momentum",),
    "muon": ("momentum", "first_moment", "second_moment"),
}
# ------------------------------------------------------------------------------------------------------------------ helpers


def start(tensor: str) -> np.ndarray:
    return numbers_of(tensor, 0).copy()


def gradient(tensor: str, t: int) -> np.ndarray:
    gradient = numbers_of(tensor, t)
    return np.zeros_like(gradient) if tensor == "without a gradient so far" and t == 1 else gradient.copy()


@cache
def numbers_of(tensor: str, t: int) -> np.ndarray:
    return stream("optimizer", tensor, t).normal(TENSORS[tensor][0])


def parameter_of(tensor: str) -> Parameter:
    _, outputs_axis, in_columns = TENSORS[tensor]
    return Parameter(np.array(start(tensor), order="F" if in_columns else "C"), outputs_axis)


def decay_of(tensor: str) -> float:
    return SETTINGS["weight_decay"] if len(TENSORS[tensor][0]) >= 2 else 0.0


def _steps_ofnumbers_of(formula: Callable, settings: tuple[str, ...]) -> Callable:
    """A step of all tensors by a formula for one number."""

    def step(numbers: Numbers, t: int, lr: float) -> Numbers:
        known = dict(t=t, betas=SETTINGS["betas"], eps=SETTINGS["eps"], beta=SETTINGS["betas"][0])
        found: Numbers = {name: {} for name in numbers}
        for tensor, (shape, *_) in TENSORS.items():
            g = GRADIENT_SCALE * gradient(tensor, t)
            given = zip(
                numbers["value"][tensor].flat, g.flat, *(numbers[name][tensor].flat for name in list(numbers)[1:])
            )
            more = {name: known[name] for name in settings}
            new = [formula(*map(float, each), lr=lr, decay=decay_of(tensor), **more) for each in given]
            for index, name in enumerate(numbers):
                found[name][tensor] = np.array([each[index] for each in new]).reshape(shape)
        return found

    return step


def _muon_step(numbers: Numbers, t: int, lr: float) -> Numbers:
    """Matrices by Muon's formula, the others by AdamW's."""
    share = MUON["adamw_lr"] / LEARNING_RATES[0]
    found = _steps_ofnumbers_of(_adamw_beside_muon, ("t", "betas", "eps"))(numbers, t, lr * share)
    for tensor, (_, axis, _) in TENSORS.items():
        if axis is not None:
            turned = np.transpose if axis == 1 else np.asarray
            parts = numbers["value"][tensor], GRADIENT_SCALE * gradient(tensor, t), numbers["momentum"][tensor]
            w, m = formulas.muon(*(turned(x).tolist() for x in parts), lr, MUON["momentum"], SETTINGS["weight_decay"])
            found["value"][tensor], found["momentum"][tensor] = turned(np.array(w)), turned(np.array(m))
    return found


def _adamw_beside_muon(w, g, momentum, m, v, **settings):
    w, m, v = formulas.adamw(w, g, m, v, **settings)
    return w, momentum, m, v


def _check_missing_gradients(optimizer, parameters: dict[str, Parameter]) -> None:
    before = {tensor: parameter.value.copy() for tensor, parameter in parameters.items()}
    for tensor, parameter in parameters.items():
        parameter.grad = None if tensor == "vector" else gradient(tensor, 1)
    try:
        optimizer.step()
    except RuntimeError:
        changed = [tensor for tensor in parameters if not np.array_equal(before[tensor], parameters[tensor].value)]
        if changed or optimizer.step_count:
            raise FormulaError(f"a step without a gradient of vector changes {changed or 'step_count'}") from None
        return
    raise FormulaError("a step goes on without the gradient of vector")


def _compare_all(what: str, found: Mapping[str, Mapping], wanted: Numbers) -> None:
    tolerance = 1e-8 if what.startswith("muon") else TOLERANCE
    for name, tensors in found.items():
        for tensor, array in tensors.items():
            compare(f"{what}: {name} of {tensor}", [array], [wanted[name][tensor]], tolerance)


def compare(what: str, found, wanted, tolerance: float = TOLERANCE) -> None:
    """Raises FormulaError for the first number that differs by more than `tolerance` of it."""
    if len(found) != len(wanted):
        raise FormulaError(f"{what}: {len(found)} results in place of {len(wanted)}")
    for one, other in zip(found, wanted):
        one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
        if one.shape != other.shape:
            raise FormulaError(f"{what}: the shape is {one.shape} in place of {other.shape}")
        error = relative_errors(np.atleast_1d(one), np.atleast_1d(other))
        if error.size and not error.max() <= tolerance:
            where = np.unravel_index(int(error.argmax()), error.shape)
            got, right = np.atleast_1d(one)[where], np.atleast_1d(other)[where]
            raise FormulaError(f"{what} is {got:.10g} in place of {right:.10g} at {tuple(map(int, where))}")
