"""The check of each optimizer's file: what it computes against the formula of its paper.

A check takes the module, or a copy of it with a fault (checks/mutation), and raises FormulaError
for the first number that differs.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks import optimizer_formulas as formulas
from minillm.checks.case import constants
from minillm.checks.optimizer_steps import (
    SETTINGS,
    TENSORS,
    FormulaError,
    check_optimizer,
    compare,
    decay_of,
    gradient,
    numbers_of,
    parameter_of,
    start,
)
from minillm.layers.layer import Parameter
from minillm.optim import schedules

UPDATED = "square", "in columns", "vector"
SMALL_BLOCKS = {"adamw": 4, "global_norm": 4}  # in place of 65,536 numbers


def check_adamw(module: types.ModuleType) -> None:
    """AdamW and Adam, their class, the formula in NumPy, and the copies for products."""
    from minillm.optim import adamw

    adam = type("Adam", (module.AdamW,), {"decoupled": False})
    with constants(module, adamw.__name__, BLOCK=SMALL_BLOCKS["adamw"]):
        check_optimizer("adamw", module.AdamW)
        check_optimizer("adam", adam)
        _check_updates(module)
    w, g, m, v = (stream("formula", name).normal((2, 3)) for name in "wgmv")
    settings = dict(lr=0.1, betas=SETTINGS["betas"], eps=SETTINGS["eps"], decay=0.3)
    found = module.adamw_formula(w, g, m, np.abs(v), **settings, t=3)
    wanted = [formulas.adamw(*each, **settings, t=3) for each in zip(w.flat, g.flat, m.flat, np.abs(v).flat)]
    compare("adamw_formula", found, np.reshape(np.transpose(wanted), (3, 2, 3)))


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
            compare(f"{name} {shape}", [getattr(module, name)(w.copy())], [wanted], 1e-8)
        for axis, turned in ((0, lambda x: x), (1, np.transpose)):
            found = module.muon_formula(turned(w), turned(g), turned(m), 0.1, 0.7, 0.3, axis)
            wanted = [turned(np.array(each)) for each in formulas.muon(*(x.tolist() for x in (w, g, m)), 0.1, 0.7, 0.3)]
            compare(f"muon_formula {shape}", found, wanted, 1e-8)
    _check_a_part(module)


class _FirstRows:
    """In the place of a `Cut`: the first rows of a matrix, of which other ranks have `others`."""

    def __init__(self, others):
        self.others = others

    def whole_of(self, part):
        return np.concatenate([part, self.others])

    def part_of(self, whole):
        return whole[: -len(self.others)].copy()


def _check_a_part(module: types.ModuleType) -> None:
    """A rank that has two rows of five takes the step of the whole matrix for them."""
    w, g, m = (stream("part", name).normal((5, 2)) for name in "wgm")
    wanted = formulas.muon(*(x.tolist() for x in (w, g, m)), 0.1, 0.7, 0.3)
    after = 0.7 * m + 0.3 * g  # the momentum
    cut = _FirstRows((0.7 * after + 0.3 * g)[2:])
    module.muon_update(w[:2], g[:2].copy(), m[:2], 0.1, 0.7, 0.3, 0, cut)
    compare("muon_update of a part", (w[:2], m[:2]), [np.array(each)[:2] for each in wanted], 1e-8)


def check_global_norm(module: types.ModuleType) -> None:
    """The norm, what it is clipped to, and both for gradients that are sums of several."""
    from minillm.optim import global_norm

    gradients = [gradient(tensor, 1) for tensor in TENSORS]
    norm = formulas.global_norm([each.ravel().tolist() for each in gradients])
    parameters = {tensor: parameter_of(tensor) for tensor in TENSORS}
    for parameter, each in zip(parameters.values(), gradients):
        parameter.grad = each
    with constants(module, global_norm.__name__, BLOCK=SMALL_BLOCKS["global_norm"]):
        compare("global_norm", [module.global_norm(gradients)], [norm])
        for accumulated in (1, 4):
            share = norm / accumulated
            for max_norm in (0.0, share, 0.5 * share, 2.0 * share):
                wanted = [share, formulas.clip_scale(share, max_norm) / accumulated]
                compare("clipped_norm", module.clipped_norm(gradients, max_norm, accumulated), wanted)
                compare("clip", module.clip(parameters, max_norm, accumulated), wanted)
        compare("clipped_norm", module.clipped_norm(gradients), [norm, 1.0])
        compare("clip", module.clip(parameters, None), [norm, 1.0])
        compare("clip", module.clip({}, 1.0), [0.0, 1.0])


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
                compare(f"{name}, step {step}", [made(step)], [formulas.schedule(name, step, **given)])


def check_base(module: types.ModuleType) -> None:
    """What the base class does for an `update` without state, and says of a wrong one.

    module: minillm.optim.optimizer.
    """

    class Plain(module.Optimizer):
        def update(self, w, g, decay):
            return w - self.lr * (g + decay * w)

    class Wrong(Plain):
        def update(self, w, g, decay):
            return w[:1]

    parameters = {tensor: parameter_of(tensor) for tensor in TENSORS}
    for tensor, parameter in parameters.items():
        parameter.grad = gradient(tensor, 1)
    pieces = {tensor: _piece_of(parameter) for tensor, parameter in parameters.items()}
    for each in (parameters, pieces):
        Plain(each, lr=0.1, weight_decay=0.3).step()
    for tensor, parameter in parameters.items():
        w, g = start(tensor), gradient(tensor, 1)
        wanted = w - 0.1 * (g + decay_of(tensor) * w)
        compare(f"plain: {tensor}", [parameter.value], [wanted])
        compare(f"plain, a piece of {tensor}", [pieces[tensor].value], [wanted.ravel()[1:]])
    try:
        Wrong(parameters).step()
    except TypeError:
        return
    raise FormulaError("an update that returns another shape is no TypeError")


def _piece_of(parameter: Parameter) -> Parameter:
    """All numbers but the first, in one dimension, as a rank has that owns a part of a tensor."""
    piece = Parameter(parameter.value.ravel()[1:].copy())
    piece.grad, piece.whole_ndim = parameter.grad.ravel()[1:].copy(), parameter.value.ndim
    return piece


CHECKS: Mapping[str, Callable[[types.ModuleType], None]] = {
    "adamw": check_adamw,
    "lion": check_lion,
    "sgd": check_sgd,
    "muon": check_muon,
    "global_norm": check_global_norm,
    "schedules": check_schedules,
}


@cache
def _arrays(number: int, order: str) -> list[np.ndarray]:
    return [np.array(numbers_of(name, number), order=order) for name in UPDATED]


@cache
def _updated(betas, lr: float, scale: float, decoupled: bool) -> list[np.ndarray]:
    """For each tensor the new values and moments (3, its size), in C order."""
    formula = formulas.adamw if decoupled else formulas.adam
    found = []
    for name in UPDATED:
        w, m, v, g = (numbers_of(name, number).ravel() for number in range(4))
        settings = 2, lr, betas, SETTINGS["eps"], decay_of(name)
        found.append(np.transpose([formula(*each, *settings) for each in zip(w, scale * g, m, abs(v))]))
    return found


def _check_updates(module: types.ModuleType) -> None:
    """`adamw_update` itself: all layouts, settings at their ends, and what is written over with the
    new values.
    """
    for order, betas, lr, scale, decoupled in product(
        "CF", ((0.6, 0.9), (0.0, 0.0)), (0.1, 0.0), (0.5, 0.0), (True, False)
    ):
        values, first, second, gradients = ([x.copy("K") for x in _arrays(number, order)] for number in range(4))
        second = [abs(v) for v in second]
        settings = dict(lr=lr, betas=betas, eps=SETTINGS["eps"], step=2, gradient_scale=scale)
        settings |= {} if decoupled else {"decoupled": False}
        copies = [np.ones_like(values[0]), None, np.ones_like(values[2])]
        settings |= {"copies": copies} if lr else {}
        decays = [decay_of(name) for name in UPDATED]
        module.adamw_update(values, gradients, first, second, weight_decays=decays, **settings)
        for found, wanted in zip(zip(values, first, second), _updated(betas, lr, scale, decoupled)):
            compare("adamw_update", [each.ravel() for each in found], wanted)
        if lr:
            compare("copies", [copies[0], copies[2]], [values[0], values[2]])
