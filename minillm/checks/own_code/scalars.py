"""Objects that hold a number and its gradient, as micrograd's Value does: an operation at a time.

Each is tried as a graph of its own, with the operand used twice, so that gradients have to be added
up: y = w (op(a, b) + op(b, a)), whose backward() leaves the gradients in a.grad and b.grad.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial

import numpy as np

from minillm.checks.own_code.functions import Problem
from minillm.checks.own_code.source import code_of
from minillm.checks.own_code.values import Ask, Choice, Maker

BINARY = {"__add__": "+", "__sub__": "-", "__mul__": "*", "__truediv__": "/"}
UNARY = ("tanh", "exp", "relu", "log", "sigmoid", "sin", "cos", "sqrt", "abs", "gelu", "square")
HELD = ("data", "value", "val")


def operations(owner: type) -> dict[str, int]:
    """Operation -> the number of its operands, of a class of numbers with gradients."""
    found = {name: 2 for name in BINARY if name in vars(owner)}
    if "__pow__" in vars(owner):
        found["__pow__"] = 1
    if "__neg__" in vars(owner):
        found["__neg__"] = 1
    methods = [n for n, f in vars(owner).items() if n in UNARY and inspect.isfunction(f) and not code_of(f).names]
    return found | {name: 1 for name in methods}


def choices(found, maker: Maker) -> Iterator[tuple[Choice, object]]:
    """(choice, the function that makes its problem) for one operation of a class."""
    name = found.name.rpartition(".")[2]
    count = operations(found.owner)[name]
    values = {letter: 1.5 + 0.5 * maker.array(f"{name}{letter}", ()) for letter in "ab"[:count]}
    yield Choice(values), partial(_problem, found.owner, name, {letter: np.asarray(x) for letter, x in values.items()})


def _problem(owner: type, name: str, inputs: dict[str, np.ndarray]) -> Problem:
    def applied(*operands):
        if name == "__pow__":
            return operands[0] ** 3
        return getattr(operands[0], name)(*operands[1:])

    def forward(*given):
        return np.asarray(float(_held(graph(given)[1]))), given

    def graph(given):
        operands = [owner(float(x)) for x in given]
        return operands, applied(*operands) + applied(*operands[::-1])

    def backward(dy, given):
        operands, result = graph(given)
        result.backward()
        return tuple(np.asarray(dy * float(np.asarray(operand.grad))) for operand in operands)

    return Problem((forward, backward), inputs)


def _held(value):
    for name in HELD:
        if hasattr(value, name):
            return np.asarray(getattr(value, name)).reshape(())
    raise Ask(f"{type(value).__name__} has none of {', '.join(HELD)}: what number it holds cannot be told")
