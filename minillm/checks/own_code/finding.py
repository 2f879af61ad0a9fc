"""What there is to check in a module: pairs of functions, losses, objects with two methods."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from minillm.checks.own_code.functions import looks_like_loss
from minillm.checks.own_code.scalars import operations
from minillm.checks.own_code.source import ENDS, FORWARDS, code_of, forward_of
from minillm.layers.layer import Layer

METHODS = (
    ("forward", "backward"), ("__call__", "backward"), ("forward_propagation", "backward_propagation"),
    ("forward", "backprop"), ("fprop", "bprop"), ("forward_pass", "backward_pass"), ("feed_forward", "back_propagate"),
    ("forward", "backpropagate"), ("forward_prop", "backward_prop"), ("forward_prop", "back_prop"), ("forward", "bprop"),
    ("forward", "grad"), ("forward", "gradient"), ("loss", "gradient"), ("__call__", "gradient"), ("__call__", "grad"),
    ("function", "derivative"), ("loss", "grad"),
)  # fmt: skip
# The name has one of these inside where something looks like a backward without a forward.
LOOKS_BACKWARD = re.compile(
    r"(_|\b)(backward|bwd|backprop|grad|derivative|prime)(_|$)|^(grad|backward|derivative)_|Backward$"
)
NO_BACKWARD = re.compile(r"^(test|_|eval|num|clip|plot|print)|check|descent|norm$")
LOOKED_FOR = (
    "NAME_forward and NAME_backward (also NAME and NAME_grad, NAME_derivative, NAME_prime, dNAME), functions that "
    "return loss, dx, and classes with forward and backward"
)


@dataclass(frozen=True)
class Found:
    """Something that can be checked.

    kind: "pair" of functions, "loss" (one function), "object" (a class, with the names of its two
    methods), "layer" (a minillm.Layer) or "scalar" (an object with a gradient of its own).
    """

    name: str
    kind: str
    line: int
    forward: Callable | None = None
    backward: Callable | None = None
    owner: type | None = None
    methods: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Skipped:
    """Something that looks like a gradient and cannot be checked, with the reason."""

    name: str
    line: int
    reason: str


def find(module: ModuleType) -> tuple[list[Found], list[Skipped]]:
    """What a module defines itself, in the order of its lines."""
    functions = {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    classes = {n: c for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__}
    found, taken = [], set()
    for name, function in functions.items():
        if (forward := forward_of(name, functions)) and _takes(functions[forward]):
            found.append(Found(_short(forward, name), "pair", _line(functions[forward]), functions[forward], function))
            taken |= {name, forward}
    for name, function in functions.items():
        if name not in taken and looks_like_loss(code_of(function)):
            found.append(Found(name, "loss", _line(function), function))
            taken.add(name)
    skipped = [
        Skipped(name, _line(function), f"no forward of this name: {_candidate(name)} is looked for")
        for name, function in functions.items()
        if name not in taken and LOOKS_BACKWARD.search(name) and not NO_BACKWARD.search(name)
    ]  # fmt: skip
    for name, owner in classes.items():
        these, those = _of_class(name, owner, module)
        found += these
        skipped += those
    return sorted(found, key=lambda each: each.line), sorted(skipped, key=lambda each: each.line)


def _of_class(name: str, owner: type, module: ModuleType) -> tuple[list[Found], list[Skipped]]:
    line, methods = _line(owner), methods_of(owner)
    if inspect.isabstract(owner) or (methods and _is_a_base(owner, methods)):
        return [], []
    if issubclass(owner, Layer):
        return ([Found(name, "layer", line, owner=owner, methods=methods)], []) if methods else ([], [])
    if methods and code_of(getattr(owner, methods[0])).names and not _is_scalar(owner):
        return [Found(name, "object", line, getattr(owner, methods[0]), getattr(owner, methods[1]), owner, methods)], []
    if _is_scalar(owner):
        return [Found(f"{name}.{each}", "scalar", line, owner=owner) for each in operations(owner)], []
    if not methods and "loss" in vars(owner) and looks_like_loss(code_of(owner.loss)):
        return [Found(name, "object", line, owner.loss, None, owner, ("loss", ""))], []
    inside = {
        n: f for n, f in vars(owner).items() if inspect.isfunction(f) or isinstance(f, (staticmethod, classmethod))
    }
    pairs = [(forward_of(n, inside), n) for n in inside if forward_of(n, inside)]
    found = []
    for forward, backward in pairs:
        try:
            instance = (
                owner
                if all(isinstance(inside[n], (staticmethod, classmethod)) for n in (forward, backward))
                else owner()
            )
        except Exception as error:  # whatever a user's constructor raises
            return [], [Skipped(f"{name}.{forward}", line, f"{name}() cannot be made: {type(error).__name__}: {error}")]
        pair = getattr(instance, forward), getattr(instance, backward)
        found.append(Found(f"{name}.{_short(forward, backward)}", "pair", _line(pair[0]), *pair))
    backward = next((n for n in inside if n in ("backward", "backprop", "backward_pass")), None)
    if not found and backward and backward != "backward":
        return [], [Skipped(name, line, f"it has {backward} and no forward that is known")]
    if not found and backward:
        return [], [Skipped(name, line, "it has backward, and neither forward nor __call__ with an argument")]
    return found, []


def methods_of(owner: type) -> tuple[str, str] | None:
    """The names of the forward and the backward method of a class; None if it has none."""
    return next(
        (pair for pair in METHODS if all(inspect.isfunction(inspect.getattr_static(owner, n, None)) for n in pair)),
        None,
    )


def _is_a_base(owner: type, methods) -> bool:
    """Whether forward or backward is only declared: it passes or raises NotImplementedError."""
    for method in methods:
        code = code_of(getattr(owner, method))
        body = [line.strip() for line in code.text.splitlines()]
        statements = [node for node in code.tree.body if not _is_text(node)]
        if (
            code.found
            and len(statements) <= 1
            and body
            and re.match(r"pass|raise NotImplementedError|\.\.\.|return NotImplemented", body[-1])
        ):
            return True
        if code.found and not statements:
            return True
    return False


def _is_text(node) -> bool:
    return type(node).__name__ == "Expr" and type(node.value).__name__ == "Constant"


def _is_scalar(owner: type) -> bool:
    """Whether a class is like micrograd's Value: a number with arithmetic and backward."""
    return hasattr(owner, "backward") and hasattr(owner, "__add__") and hasattr(owner, "__mul__")


def _takes(function) -> bool:
    return bool(code_of(function).names)


def _short(forward: str, backward: str) -> str:
    for end in FORWARDS[1:]:
        if forward.endswith(end) and forward != end and end != "_loss":
            return forward.removesuffix(end)
    return forward.removeprefix("forward_")


def _candidate(backward: str) -> str:
    base = next((backward.removesuffix(end) for end in ENDS if backward.endswith(end)), backward)
    return (
        f"{base}_forward or {base}" if base != backward else "a function NAME to it, as NAME_backward and NAME_forward"
    )


def _line(thing) -> int:
    try:
        return inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return 0
