"""How good a check of a user's backward is: its mutants, and which of them the check notices.

The check is that of running.py, with the same inputs. A mutant that survives is a line that could
be wrong without being noticed: the inputs do not reach it, or the change makes no difference.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from minillm.checks.gradcheck import GradientError
from minillm.checks.mutation import Outcome, functions_of, mutants_of, observe, try_mutants
from minillm.checks.mutation.measured import Measured
from minillm.checks.own_code.finding import Found, find
from minillm.checks.own_code.functions import Problem
from minillm.checks.own_code.running import prepared, problem_of
from minillm.checks.own_code.source import code_of
from minillm.checks.own_code.values import Maker
from minillm.errors import UserError


@dataclass(frozen=True)
class Mutated:
    """What came out for one thing that was found: outcomes, or the reason why there are none."""

    name: str
    outcomes: tuple[Outcome, ...] = ()
    reason: str = ""

    @property
    def survivors(self) -> list:
        return [outcome.mutant for outcome in self.outcomes if not outcome.noticed]


def mutate_module(module: ModuleType, names: set[str], given: dict[str, str] | None = None) -> list[Mutated]:
    """The mutants of the backwards of a module's pairs and classes of these names, each against its
    check.
    """
    with np.errstate(all="ignore"):
        return [_mutated(found, module, given or {}) for found in find(module)[0] if found.name in names]


def _mutated(found: Found, module: ModuleType, given: dict[str, str]) -> Mutated:
    backward = _backward_name(found)
    if backward not in functions_of(module):
        return Mutated(found.name, reason="its backward is no function of its own in the file: no mutants")
    maker = Maker(module, given=given)
    _, choice = prepared(found, maker)
    expected: list[str] = []

    def make(copied: ModuleType) -> tuple[object, dict, None]:
        problem = problem_of(_in_copy(found, copied), Maker(copied, given=given, of_output=maker.of_output), choice)
        _check_inputs(found, expected, problem)
        return problem.subject, problem.inputs, None

    try:
        expected += make(module)[1]
        measured = Measured(make, module, found.name)
        observed = observe(module, [backward], measured.check)
        mutants = [m for m in mutants_of(module, [backward], observed) if m.line > _last_line_of_forward(found)]
    except GradientError as error:
        return Mutated(found.name, reason=f"its check fails already: {error}")
    except UserError as error:
        return Mutated(found.name, reason=str(error))
    outcomes = try_mutants(mutants, measured.check)
    return Mutated(found.name, tuple(o for o in outcomes if not o.noticed.startswith("ForwardChanged")))


def _last_line_of_forward(found: Found) -> int:
    """Where a function that returns loss and gradients computes the loss; 0 for another one."""
    if found.backward is not None or found.kind not in ("loss", "object"):
        return 0
    code = code_of(found.forward)
    loss = code.returned[0]
    names = [node for node in code.own_nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    lines = [node.lineno for node in names if node.id == loss]
    return code.line - 1 + max(lines, default=0)


def _check_inputs(found: Found, expected: list[str], problem: Problem) -> None:
    missing = [name for name in expected if name not in problem.inputs]
    if missing:
        raise GradientError(f"{found.name}: backward gives no gradient of {' and '.join(missing)}")


def _backward_name(found: Found) -> str:
    if found.kind in ("object", "layer") and found.methods[1]:
        return f"{found.owner.__name__}.{found.methods[1]}"
    function = found.backward or found.forward
    return getattr(function, "__qualname__", "")


def _in_copy(found: Found, copied: ModuleType) -> Found:
    """What was found, with the functions and classes of a copy of the module."""

    def other(function):
        if function is None:
            return None
        thing = copied
        for name in function.__qualname__.split("."):
            thing = getattr(thing, name)
        return thing

    return replace(found, forward=other(found.forward), backward=other(found.backward), owner=other(found.owner))
