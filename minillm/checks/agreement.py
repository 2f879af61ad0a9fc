"""Whether an implementation of an operation agrees with NumPy in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import bfloat16
from minillm.checks.case import Case, Kernel, Problem


@dataclass(frozen=True)
class Agreement:
    """errors: result -> relative error against NumPy in float64, norm-wise.
    allowed: result -> the largest error that agrees.
    """

    errors: dict[str, float]
    allowed: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest error as a multiple of what is allowed."""
        return max((error / self.allowed[name] for name, error in self.errors.items()), default=0.0)

    @property
    def agrees(self) -> bool:
        """Whether all results agree."""
        return self.worst <= 1


def compare_kernel(case: Case, kernel: Kernel, problem: Problem, device: str = "cudasim") -> Agreement:
    """Run a kernel of a case on a device, "cudasim" or "cuda", and compare with float64."""
    found = kernel_results(case, kernel, problem, device)
    return agreement(found, reference_results(case, problem), kernel)


def agreement(found: tuple[dict, dict], expected: tuple[dict, dict], kernel: Kernel) -> Agreement:
    """The errors of outputs and gradients by name, as `Case.results` returns them."""
    errors, allowed = {}, {}
    for results, references, tolerance in zip(found, expected, (kernel.forward, kernel.backward)):
        if results.keys() != references.keys():
            raise ValueError(f"{kernel.name} returns {', '.join(results)}, NumPy {', '.join(references)}")
        errors |= {name: relative_error(results[name], references[name]) for name in results}
        allowed |= dict.fromkeys(results, tolerance)
    return Agreement(errors, allowed)


def kernel_results(
    case: Case, kernel: Kernel, problem: Problem, device: str = "cudasim", number: str = "float32"
) -> tuple[dict, dict]:
    """Outputs and gradients of a kernel by name, copied to the host.

    number: the dtype of the low-precision inputs.
    """
    results = case.results(import_module(kernel.module), placed(case, case.make(problem), device, None, number))
    return tuple({name: to_host(x) if hasattr(x, "dtype") else x for name, x in part.items()} for part in results)


def reference_results(case: Case, problem: Problem, number: str = "float32", dtype="float64", op=None):
    """Outputs and gradients of NumPy by name, of inputs that are rounded as the kernel's are.

    op: a module to call in place of the one with the NumPy functions.
    """
    return case.results(op or case.module, placed(case, case.make(problem), "cpu", dtype, number))


def placed(case: Case, a: SimpleNamespace, device: str, dtype=None, number: str = "float32") -> SimpleNamespace:
    """The inputs on a device, rounded to float32, those of low precision to `number`.

    dtype: of the arrays that hold the rounded numbers, by default what they are rounded to. What is
    no array of floats stays as it is.
    """

    def place(name, value):
        if isinstance(value, list):
            return [place(name, each) for each in value]
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype.kind == "f":
            value = value.astype(np.float32)
            if number == "bfloat16" and name in case.low_precision:
                value = value.astype(bfloat16())
            return to_device(value.astype(dtype) if dtype else value, device)
        return to_device(value.copy(), device)

    return SimpleNamespace(**{name: place(name, value) for name, value in vars(a).items()})


def relative_error(actual, expected) -> float:
    """The error of a result, norm-wise; infinite where it is not finite, 0 where both are None.

    Raises ValueError for results of different shapes.
    """
    if actual is None or expected is None:
        return 0.0 if actual is expected else math.inf
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise ValueError(f"a result has shape {actual.shape}, the reference {expected.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        distance, norm = np.linalg.norm(actual.astype(np.float64) - expected), np.linalg.norm(expected)
    if not np.isfinite(distance):
        return math.inf
    return float(distance / norm) if norm else float(distance)
