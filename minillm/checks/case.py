"""A case: one operation, with everything that a check of it needs.

A case makes inputs of a given size, calls forward and backward, and names the sizes to try. The
cases are in cases_*.py, one for each operation, and cases.py lists them. The caller brings `op`,
the module whose functions are called: the layer's (NumPy), the CUDA kernel's, or a copy of one of
them with a planted fault.

    minillm gradcheck     backward in float64 against finite differences          sizes: `gradcheck`
    minillm simulate      the kernel against NumPy in float64                     size:  `simulate`
    tests/layers          both, and planted faults that they notice               also: `kernels`
    benchmarks            time and error of every implementation                  sizes: `benchmark`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np

from minillm.backend.random_streams import stream
from minillm.layers.layer import Layer

KEY = (0, "gradcheck")  # a random key: dropout draws the same mask in every forward
FORWARD, BACKWARD = 1e-5, 1e-4  # relative errors, norm-wise, that a kernel in float32 may have


@dataclass(frozen=True)
class Problem:
    """The arguments of a case's `inputs`: the numbers of a size, and settings.

    label: what a report adds to the name of the case.
    """

    size: tuple
    settings: tuple[tuple[str, object], ...] = ()
    label: str = ""

    def __str__(self) -> str:
        if self.label:
            return self.label
        return "-".join([*map(str, self.size), *(f"{name}={value}" for name, value in self.settings)])


def at(*size, label: str = "", **settings) -> Problem:
    """A problem of a size.

    >>> str(at(6, 65, biased=False))
    '6-65-biased=False'
    """
    return Problem(size, tuple(settings.items()), label)


@dataclass(frozen=True)
class Kernel:
    """A CUDA implementation of an operation.

    name: for `minillm simulate`. module: of the launcher. summary: what it computes, in one line.
    forward, backward: the relative error that counts as agreement, norm-wise.
    """

    name: str
    module: str
    summary: str
    forward: float = FORWARD
    backward: float = BACKWARD


@dataclass(frozen=True, eq=False)
class Case:
    """One operation.

    name            The operation. `home` is the module with its functions and its layer,
                    minillm.layers.NAME unless given.
    inputs          (rng, *size, **settings) -> a dict of all that forward and backward take:
                    float64 arrays, lists of arrays, and what is no array (eps, a random key).
                    "dy" is the gradient of the output "y".
    forward         (op, a) -> outputs, saved, where `a` has the inputs as attributes. The outputs
                    are named `outputs`.
    backward        (op, a, saved) -> the gradients of the inputs named `differentiated`, in order.
    layer           (module, a) -> the layer, whose forward takes the inputs named `layer_inputs`;
                    None where only the functions can be checked.
    low_precision   The inputs that may be bfloat16, and so their gradients and the outputs.
    kernel          The CUDA implementations.
    slope_error     How far forward's own slope is from that of the formula, which the complex step
                    sees: a series for erf is exact to 1e-13, and its slope to less.
    dimensions      The names of the numbers of a size on a command line. `expand` turns these
                    numbers into the size of a problem, where that is another one.
    gradcheck       Problems for finite differences: small, since every number is tried.
    kernels         Problems for the comparison of implementations.
    simulate        The size that `minillm simulate` runs by default.
    benchmark       Problems whose time is measured.
    """

    name: str
    inputs: Callable[..., dict]
    forward: Callable | None = None
    backward: Callable | None = None
    outputs: tuple[str, ...] = ("y",)
    differentiated: tuple[str, ...] = ()
    layer: Callable[[ModuleType, SimpleNamespace], Layer | None] | None = None
    layer_inputs: tuple[str, ...] = ("x",)
    home: str = ""
    low_precision: tuple[str, ...] = ()
    kernel: tuple[Kernel, ...] = ()
    slope_error: float | None = None
    dimensions: tuple[str, ...] = ("rows", "width")
    expand: Callable[..., tuple] | None = None
    gradcheck: Iterable[Problem] = ()
    kernels: Iterable[Problem] = ()
    simulate: tuple[int, ...] = ()
    benchmark: Iterable[Problem] = ()

    def __post_init__(self):
        if not self.home:
            object.__setattr__(self, "home", f"minillm.layers.{self.name}")

    def __str__(self) -> str:
        return self.name

    @property
    def module(self) -> ModuleType:
        """The module with the NumPy functions and the layer."""
        return import_module(self.home)

    def make(self, problem: Problem) -> SimpleNamespace:
        """The inputs of a problem: always the same numbers."""
        return SimpleNamespace(**self.inputs(np.random.default_rng(0), *problem.size, **dict(problem.settings)))

    def sized(self, numbers: tuple[int, ...]) -> Problem:
        """The problem of a size that is given by its `dimensions`."""
        return Problem(tuple(self.expand(*numbers)) if self.expand else tuple(numbers))

    def results(self, op, a: SimpleNamespace) -> tuple[dict, dict]:
        """Outputs and gradients by name, "d" before the name of the input.

        Lists are taken apart: values[0], ...
        """
        outputs, saved = self.forward(op, a)
        forward = by_name(self.outputs, outputs)
        if self.backward is None:
            return forward, {}
        gradients = self.backward(op, a, saved)
        return forward, by_name(tuple(f"d{name}" for name in self.differentiated), gradients)

    def subject(self, problem: Problem, module: ModuleType | None = None) -> tuple[object, dict, tuple | None]:
        """The arguments of `gradcheck`: layer or pair of functions, its inputs by name, random key.

        module: a copy of the module `home` to check in its place, such as one with a planted fault.
        """
        module, a = module or self.module, self.make(problem)
        layer = self.layer(module, a) if self.layer else None
        if layer is not None:
            return layer, {name: getattr(a, name) for name in self.layer_inputs}, getattr(a, "rng_key", None)
        names = [name for name in self.differentiated if getattr(a, name) is not None]
        return self._pair(module, a, names), {name: getattr(a, name) for name in names}, None

    def label(self, problem: Problem) -> str:
        """What a report calls the problem."""
        return f"{self.name}, {problem.label}" if problem.label else self.name

    def _pair(self, op, a: SimpleNamespace, names: list[str]) -> tuple[Callable, Callable]:
        """forward(*the named inputs) -> y, saved and backward(dy, saved) -> their gradients."""

        def forward(*arrays):
            given = SimpleNamespace(**{**vars(a), **dict(zip(names, arrays))})
            outputs, saved = self.forward(op, given)
            return outputs, (given, saved)

        def backward(dy, kept):
            given, saved = kept
            upstream = (dy,) if len(self.outputs) == 1 else dy
            vars(given).update({f"d{name}": d for name, d in zip(self.outputs, upstream)})
            gradients = dict(zip(self.differentiated, _as_tuple(self.backward(op, given, saved))))
            return tuple(gradients[name] for name in names)

        return forward, backward


def by_name(names: tuple[str, ...], values) -> dict:
    """Results by their names; a list is taken apart.

    >>> by_name(("y", "w"), (1, [2, 3]))
    {'y': 1, 'w[0]': 2, 'w[1]': 3}
    """
    found = {}
    for name, value in zip(names, _as_tuple(values), strict=True):
        if isinstance(value, list):
            found |= {f"{name}[{index}]": each for index, each in enumerate(value)}
        else:
            found[name] = value
    return found


@contextmanager
def constants(op: ModuleType, home: str, **values) -> Iterator[None]:
    """Other values of constants of a module, and of a copy of it, while something is called."""
    modules = op, import_module(home)
    before = [{name: vars(module)[name] for name in values} for module in modules]
    try:
        for module in modules:
            vars(module).update(values)
        yield
    finally:
        for module, own in zip(modules, before):
            vars(module).update(own)


def array(name: str, *shape: int) -> np.ndarray:
    """Standard normal numbers that depend on the name only, float64."""
    return stream("catalogue", name).normal(shape)


def randomised(layer: Layer, scale: float = 0.5) -> Layer:
    """The layer with random parameters.

    At their initial values some gradients vanish, and a fault would not show.
    """
    for name, parameter in layer.parameters().items():
        parameter.value[...] = scale * array(name, *parameter.value.shape)
    return layer


def _as_tuple(value) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
