"""Steps of an optimizer against its formula (optimizer_formulas.py), number by number, in float64.

Each check takes the module of an optimizer, or a copy of it with a fault, and takes three steps with
parameters of different shapes, layouts and roles: a learning rate that changes, gradients that are
scaled, a weight decay and an eps that are large enough to be seen.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks import optimizer_formulas as formulas
from minillm.checks.case import constants
from minillm.checks.verdicts import relative_errors
from minillm.layers.parameter import Parameter
from minillm.optim import schedules

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
SMALL_BLOCKS = {"adamw": 4, "global_norm": 4}  # in place of 65,536 numbers
Numbers = dict[str, dict[str, np.ndarray]]  # "value", or the name of a state -> tensor -> its numbers


class FormulaError(AssertionError):
    """An optimizer does something else than its formula; the message names the number."""


def check_optimizer(name: str, kind: type) -> None:
    """Raises FormulaError where a step of the class `kind` is not that of the formula `name`, or
    where it goes on without a gradient.
    """
    parameters = {tensor: _parameter(tensor) for tensor in TENSORS}
    more = MUON if name == "muon" else {}
    optimizer = kind(parameters, lr=LEARNING_RATES[0], **SETTINGS, **more)
    _check_missing_gradients(optimizer, parameters)
    for t, lr in enumerate(LEARNING_RATES, start=1):
        for tensor, parameter in parameters.items():
            parameter.grad = _gradient(tensor, t)
        optimizer.lr = lr
        optimizer.step(GRADIENT_SCALE)
        found = {"value": {tensor: parameter.value for tensor, parameter in parameters.items()}, **optimizer.state}
        _compare(f"{name}, step {t}", found, expected_steps(name)[t - 1])
    optimizer.zero_grad()
    if any(parameter.grad is not None for parameter in parameters.values()):
        raise FormulaError(f"{name}: zero_grad leaves a gradient")


@cache
def expected_steps(name: str) -> list[Numbers]:
    """What the formula gives after each of the steps."""
    step = _muon_step if name == "muon" else _steps_of_numbers(*FORMULAS[name])
    states = STATES[name]
    numbers: Numbers = {"value": {tensor: _start(tensor) for tensor in TENSORS}}
    for state in states:
        numbers[state] = {tensor: np.zeros(TENSORS[tensor][0]) for tensor in TENSORS}
    found = []
    for t, lr in enumerate(LEARNING_RATES, start=1):
        numbers = step(numbers, t, lr)
        found.append(numbers)
    return found


# -------------------------------------------------------------------------------------- each optimizer's own functions


def check_adamw(module: types.ModuleType) -> None:
    """AdamW and Adam, their class, the formula in NumPy, and the copies for products."""
    from minillm.optim import adamw

    adam = type("Adam", (module.AdamW,), {"decoupled": False})
    with constants(module, adamw.__name__, BLOCK=SMALL_BLOCKS["adamw"]):
        check_optimizer("adamw", module.AdamW)
        check_optimizer("adam", adam)
        _check_copies(module)
    w, g, m, v = (stream("formula", name).normal((2, 3)) for name in "wgmv")
    settings = dict(lr=0.1, betas=SETTINGS["betas"], eps=SETTINGS["eps"], decay=0.3)
    found = module.adamw_formula(w, g, m, np.abs(v), **settings, t=3)
    wanted = [formulas.adamw(*each, **settings, t=3) for each in zip(w.flat, g.flat, m.flat, np.abs(v).flat)]
    _compare_arrays("adamw_formula", found, np.reshape(np.transpose(wanted), (3, 2, 3)))


def check_lion(module: types.ModuleType) -> None:
    check_optimizer("lion", module.Lion)


def check_sgd(module: types.ModuleType) -> None:
    check_optimizer("sgd", module.SGD)


def check_muon(module: types.ModuleType) -> None:
    """Muon's class, its formula in NumPy, and the orthogonal matrix of it."""
    check_optimizer("muon", module.Muon)
    for shape in ((2, 3), (2, 5), (5, 2), (3, 3)):
        w, g, m = (stream("formula", name, *shape).normal(shape) for name in "wgm")
        wanted = formulas.newton_schulz(w.tolist())
        for name in ("orthogonalised", "orthogonalised_formula"):
            _compare_arrays(f"{name} {shape}", [getattr(module, name)(w.copy())], [wanted], 1e-8)
        for axis, turned in ((0, lambda x: x), (1, np.transpose)):
            found = module.muon_formula(turned(w), turned(g), turned(m), 0.1, 0.7, 0.3, axis)
            wanted = [turned(np.array(each)) for each in formulas.muon(*(x.tolist() for x in (w, g, m)), 0.1, 0.7, 0.3)]
            _compare_arrays(f"muon_formula {shape}", found, wanted, 1e-8)


def check_global_norm(module: types.ModuleType) -> None:
    """The norm, what it is clipped to, and both for gradients that are sums of several."""
    from minillm.optim import global_norm

    gradients = [_gradient(tensor, 1) for tensor in TENSORS]
    norm = formulas.global_norm([gradient.ravel().tolist() for gradient in gradients])
    parameters = {tensor: _parameter(tensor) for tensor in TENSORS}
    for parameter, gradient in zip(parameters.values(), gradients):
        parameter.grad = gradient
    with constants(module, global_norm.__name__, BLOCK=SMALL_BLOCKS["global_norm"]):
        _compare_arrays("global_norm", [module.global_norm(gradients)], [norm])
        for accumulated in (1, 4):
            share = norm / accumulated
            for max_norm in (0.0, share, 0.5 * share, 2.0 * share):
                wanted = [share, formulas.clip_scale(share, max_norm) / accumulated]
                _compare_arrays("clipped_norm", module.clipped_norm(gradients, max_norm, accumulated), wanted)
                _compare_arrays("clip", module.clip(parameters, max_norm, accumulated), wanted)
        _compare_arrays("clipped_norm", module.clipped_norm(gradients), [norm, 1.0])
        _compare_arrays("clip", module.clip(parameters, None), [norm, 1.0])
        _compare_arrays("clip", module.clip({}, 1.0), [0.0, 1.0])


def check_schedules(module: types.ModuleType) -> None:
    """Every schedule, with and without warm-up, at each step and beyond the last one."""
    for name in schedules.SCHEDULES:
        for settings in (
            dict(max_steps=8),
            dict(max_steps=9, warmup_steps=3, min_lr=0.1),
            dict(max_steps=2, warmup_steps=2),
        ):
            given = dict(lr=0.7, warmup_steps=0, min_lr=0.0) | settings
            made = module.make_schedule(name, **given)
            for step in range(13):
                _compare_arrays(f"{name}, step {step}", [made(step)], [formulas.schedule(name, step, **given)])


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
CHECKS: Mapping[str, Callable[[types.ModuleType], None]] = {
    "adamw": check_adamw,
    "lion": check_lion,
    "sgd": check_sgd,
    "muon": check_muon,
    "global_norm": check_global_norm,
    "schedules": check_schedules,
}


# ------------------------------------------------------------------------------------------------------------------ helpers


def _start(tensor: str) -> np.ndarray:
    return _numbers(tensor, 0).copy()


def _gradient(tensor: str, t: int) -> np.ndarray:
    gradient = _numbers(tensor, t)
    return np.zeros_like(gradient) if tensor == "without a gradient so far" and t == 1 else gradient.copy()


@cache
def _numbers(tensor: str, t: int) -> np.ndarray:
    return stream("optimizer", tensor, t).normal(TENSORS[tensor][0])


def _parameter(tensor: str) -> Parameter:
    _, outputs_axis, in_columns = TENSORS[tensor]
    return Parameter(np.array(_start(tensor), order="F" if in_columns else "C"), outputs_axis)


def _decay(tensor: str) -> float:
    return SETTINGS["weight_decay"] if len(TENSORS[tensor][0]) >= 2 else 0.0


def _steps_of_numbers(formula: Callable, settings: tuple[str, ...]) -> Callable:
    """A step of all tensors by a formula for one number."""

    def step(numbers: Numbers, t: int, lr: float) -> Numbers:
        known = dict(t=t, betas=SETTINGS["betas"], eps=SETTINGS["eps"], beta=SETTINGS["betas"][0])
        found: Numbers = {name: {} for name in numbers}
        for tensor, (shape, *_) in TENSORS.items():
            g = GRADIENT_SCALE * _gradient(tensor, t)
            given = zip(
                numbers["value"][tensor].flat, g.flat, *(numbers[name][tensor].flat for name in list(numbers)[1:])
            )
            more = {name: known[name] for name in settings}
            new = [formula(*map(float, each), lr=lr, decay=_decay(tensor), **more) for each in given]
            for index, name in enumerate(numbers):
                found[name][tensor] = np.array([each[index] for each in new]).reshape(shape)
        return found

    return step


def _muon_step(numbers: Numbers, t: int, lr: float) -> Numbers:
    """Matrices by Muon's formula, the others by AdamW's."""
    share = MUON["adamw_lr"] / LEARNING_RATES[0]
    found = _steps_of_numbers(_adamw_beside_muon, ("t", "betas", "eps"))(numbers, t, lr * share)
    for tensor, (_, axis, _) in TENSORS.items():
        if axis is not None:
            turned = np.transpose if axis == 1 else np.asarray
            parts = numbers["value"][tensor], GRADIENT_SCALE * _gradient(tensor, t), numbers["momentum"][tensor]
            w, m = formulas.muon(*(turned(x).tolist() for x in parts), lr, MUON["momentum"], SETTINGS["weight_decay"])
            found["value"][tensor], found["momentum"][tensor] = turned(np.array(w)), turned(np.array(m))
    return found


def _adamw_beside_muon(w, g, momentum, m, v, **settings):
    w, m, v = formulas.adamw(w, g, m, v, **settings)
    return w, momentum, m, v


def _check_missing_gradients(optimizer, parameters: dict[str, Parameter]) -> None:
    before = {tensor: parameter.value.copy() for tensor, parameter in parameters.items()}
    for tensor, parameter in parameters.items():
        parameter.grad = None if tensor == "vector" else _gradient(tensor, 1)
    try:
        optimizer.step()
    except RuntimeError:
        changed = [tensor for tensor in parameters if not np.array_equal(before[tensor], parameters[tensor].value)]
        if changed or optimizer.step_count:
            raise FormulaError(f"a step without a gradient of vector changes {changed or 'step_count'}") from None
        return
    raise FormulaError("a step goes on without the gradient of vector")


def _check_copies(module: types.ModuleType) -> None:
    """What is written over with the new value, where there is a copy."""
    names = ("square", "in columns", "vector")
    values, gradients = [_start(name) for name in names], [_gradient(name, 1) for name in names]
    moments = [[np.zeros_like(value) for value in values] for _ in range(2)]
    copies = [np.zeros_like(values[0]), None, np.zeros_like(values[2])]
    settings = dict(lr=0.1, betas=SETTINGS["betas"], eps=SETTINGS["eps"], weight_decays=[0.3, 0.3, 0.0], step=1)
    module.adamw_update(values, gradients, *moments, **settings, copies=copies)
    _compare_arrays("copies", [copies[0], copies[2]], [values[0], values[2]])
    wanted = [
        formulas.adamw(w, g, 0.0, 0.0, 1, 0.1, SETTINGS["betas"], SETTINGS["eps"], 0.3)[0]
        for w, g in zip(_start("square").flat, gradients[0].flat)
    ]
    _compare_arrays("adamw_update", [values[0]], [np.reshape(wanted, values[0].shape)])


def _compare(what: str, found: Mapping[str, Mapping], wanted: Numbers) -> None:
    tolerance = 1e-8 if what.startswith("muon") else TOLERANCE
    for name, tensors in found.items():
        for tensor, array in tensors.items():
            _compare_arrays(f"{what}: {name} of {tensor}", [array], [wanted[name][tensor]], tolerance)


def _compare_arrays(what: str, found, wanted, tolerance: float = TOLERANCE) -> None:
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
