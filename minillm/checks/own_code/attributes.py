"""The arrays that an object holds, and where its backward leaves their gradients.

self.W, self.dW            also grad_W, W_grad; self.weights with self.dweights or self.dW
self.params["W"]           with self.grads["W"] or self.grads["dW"]
self.params[0]             with self.grads[0]
self.W.data                with self.W.grad: an object around the array
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minillm.checks.own_code.names import LABELS
from minillm.checks.own_code.source import base_name, same_name
from minillm.checks.own_code.values import is_float

GRADIENTS = (
    "grads",
    "grad",
    "gradients",
    "gradient",
    "dparams",
    "grad_params",
    "param_grads",
    "_grads",
    "gradis",
    "derivatives",
)
PARAMETERS = ("params", "parameters", "param", "weights", "_params", "trainable_params")
VALUES = ("data", "value", "values", "val", "array", "w")
ALIKE = (
    ("W", "w", "weights", "weight", "kernel", "filters"),
    ("b", "bias", "biases"),
    ("gamma", "scale", "g"),
    ("beta", "shift"),
)
DEEPEST = 4


@dataclass(frozen=True)
class Leaf:
    """A float array of an object. path: the attributes, keys and indices that lead to it."""

    path: tuple
    array: np.ndarray

    @property
    def name(self) -> str:
        """As it is written behind self: W, params['W'], layers[0].W"""
        text = ""
        for step in self.path:
            text += f".{step.name}" if isinstance(step, Attribute) else f"[{step!r}]"
        return text.lstrip(".")


class Attribute(str):
    """A step of a path that is an attribute, in place of a key."""

    @property
    def name(self) -> str:
        return str(self)


def leaves(thing) -> list[Leaf]:
    """The float arrays that an object holds, each once."""
    found: list[Leaf] = []
    _collect(thing, (), found, set())
    return found


def float_arrays(thing) -> list[np.ndarray]:
    """All float arrays that an object holds, those of gradients too, each once."""
    found: list[Leaf] = []
    _collect(thing, (), found, set(), with_gradients=True)
    return [leaf.array for leaf in found]


def at(thing, path: tuple):
    """What lies at a path; None if nothing does."""
    for step in path:
        try:
            thing = getattr(thing, step) if isinstance(step, Attribute) else thing[step]
        except (AttributeError, KeyError, IndexError, TypeError):
            return None
    return thing


def gradient_of(thing, leaf: Leaf):
    """The gradient that an object keeps for one of its arrays; None if it keeps none."""
    *before, last = leaf.path
    holder, owner = at(thing, tuple(before)), at(thing, tuple(before[:-1])) if before else thing
    if isinstance(last, Attribute):
        if last in VALUES and (found := _first(holder, ("grad", "gradient", "_grad", "g", "d", "delta"))) is not None:
            return found
        slots = _slots(holder)
        if (found := _named(slots, last)) is not None:
            return found
        return _by_identity(holder, at(thing, leaf.path))
    listed = [getattr(owner, name, None) for name in GRADIENTS]
    for gradients in listed:
        if isinstance(last, str) and isinstance(gradients, dict):
            if (found := _named({base_name(k) or k: v for k, v in gradients.items()} | gradients, last)) is not None:
                return found
        if isinstance(last, int) and isinstance(gradients, (list, tuple)) and last < len(gradients):
            return gradients[last]
    return _named(_slots(owner), last) if isinstance(last, str) and owner is not None else None


def input_gradient(thing, name: str):
    """The gradient of an input that backward left on the object: self.dinputs, self.dx."""
    slots = _slots(thing)
    found = _named(slots, name)
    if found is None and name.lower() in LABELS:
        return None  # self.dinputs is that of the predictions
    usual = ("inputs", "input", "x", "X", "in", "A", "values")
    return found if found is not None else next((slots[each] for each in usual if each in slots), None)


def _collect(thing, path: tuple, found: list[Leaf], seen: set[int], with_gradients: bool = False) -> None:
    if id(thing) in seen or len(path) > DEEPEST:
        return
    if is_float(thing):
        seen.add(id(thing))
        found.append(Leaf(path, thing))
        return
    if isinstance(thing, dict):
        seen.add(id(thing))
        steps = [(key, value) for key, value in thing.items() if isinstance(key, (str, int))]
    elif isinstance(thing, (list, tuple)):
        seen.add(id(thing))
        steps = list(enumerate(thing))
    elif hasattr(thing, "__dict__") and not isinstance(thing, type) and not callable(getattr(thing, "__code__", None)):
        seen.add(id(thing))
        items = [(Attribute(name), value) for name, value in vars(thing).items()]
        steps = sorted(items, key=lambda item: isinstance(item[1], (list, tuple, dict)))  # self.W before self.params[0]
    else:
        return
    for step, value in steps:
        if with_gradients or not (isinstance(step, str) and _holds_gradients(step)):
            _collect(value, (*path, step), found, seen, with_gradients)


def _holds_gradients(name: str) -> bool:
    return name in GRADIENTS or (bool(base_name(name)) and name not in ("decay",))


def _slots(thing) -> dict[str, object]:
    """What a gradient is of -> the gradient, of the attributes of an object."""
    found: dict[str, object] = {}
    for name, value in getattr(thing, "__dict__", {}).items():
        if name in GRADIENTS and isinstance(value, dict):
            found |= {base_name(key) or key: each for key, each in value.items() if isinstance(key, str)}
        elif isinstance(value, (np.ndarray, np.number, float)) and (base := base_name(name)):
            found[base] = value
    return found


def _named(slots: dict[str, object], name: str):
    if name in slots:
        return slots[name]
    alike = next((names for names in ALIKE if name in names), ())
    for key, value in slots.items():
        if same_name(key, name) or same_name(key, name.rstrip("s")) or key in alike:
            return value
    return None


def _by_identity(thing, array):
    """self.grads[i], where self.params[i] is the array."""
    for name in PARAMETERS:
        listed = getattr(thing, name, None)
        if isinstance(listed, (list, tuple)):
            for index, each in enumerate(listed):
                for gradients in (getattr(thing, g, None) for g in GRADIENTS):
                    if each is array and isinstance(gradients, (list, tuple)) and index < len(gradients):
                        return gradients[index]
    return None


def _first(thing, names):
    return next((getattr(thing, name) for name in names if getattr(thing, name, None) is not None), None)
