"""What `minillm gradcheck --mutate` changes, by name: the backward functions of a file and the
problems that have to notice; for an optimizer its step, and the formula.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module

from minillm.checks.case import Case, Problem
from minillm.checks.cases import GRADCHECKED
from minillm.checks.mutation.measured import Measured
from minillm.checks.mutation.mutants import Mutant, mutants_of
from minillm.checks.mutation.observed import observe
from minillm.checks.mutation.source import backward_functions
from minillm.checks.optimizer_checks import CHECKS, check_base
from minillm.errors import UserError

# Methods that other files inherit or call, in files that have no case of their own: their mutants
# are tried with the problems of these names.
SHARED = {
    "gpt2": (
        "minillm.models.language_model",
        ("LanguageModel.backward", "LanguageModel.backward_log_probabilities"),
        ("gpt2", "llama", "preference"),
    ),
}
# The functions that take a step, by the file in minillm/optim/.
OPTIMIZERS = {
    "adamw": ("adamw_formula", "adamw_update", "_update_block", "AdamW.update_all", "AdamW.adamw_step"),
    "lion": ("lion_formula", "Lion.update"),
    "sgd": ("sgd_formula", "SGD.update"),
    "muon": (
        "orthogonalised", "orthogonalised_formula", "_of_norm_1", "_factor", "muon_formula", "muon_update", "_scale",
        "Muon.parameters_with", "Muon.update_all",
    ),
    "global_norm": ("global_norm", "clipped_norm", "clip_scale", "clip", "_sum_of_squares"),
    "schedules": ("make_schedule.schedule",),
}  # fmt: skip
OF_ALL_OPTIMIZERS = ("Optimizer.step", "Optimizer.update_all", "Optimizer.decay_of", "Optimizer.zero_grad")


@dataclass(frozen=True)
class Target:
    """Functions of one module, and the check that has to notice their faults.

    check: takes a copy of the module. confirm: measures every number of the module as it is.
    """

    name: str
    module: types.ModuleType
    functions: tuple[str, ...]
    check: Callable[[types.ModuleType], None]
    confirm: Callable[[], None]

    def mutants(self) -> list[Mutant]:
        """All mutants, of which those whose names are mistaken for others come from a run of the
        check.
        """
        observed = observe(self.module, list(self.functions), self.check)
        return mutants_of(self.module, self.functions, observed)


def names_to_mutate() -> list[str]:
    """The names that --mutate takes: those of gradcheck whose files have backward functions of
    their own, and the optimizers.
    """
    layers = [name for name in GRADCHECKED if any(backward_functions(module) for module in _modules(name))]
    return [*layers, *OPTIMIZERS, "optimizer"]


def targets_of(name: str) -> list[Target]:
    """What is changed under a name. Raises UserError for an unknown one."""
    if name not in names_to_mutate():
        raise UserError(f'nothing to mutate is named "{name}": use {", ".join(names_to_mutate())}')
    if name in OPTIMIZERS:
        module = import_module(f"minillm.optim.{name}")
        return [Target(name, module, OPTIMIZERS[name], CHECKS[name], partial(CHECKS[name], module))]
    if name == "optimizer":
        return [_optimizer()]
    found = []
    for module in _modules(name):
        if functions := backward_functions(module):
            problems = _Problems(GRADCHECKED[name], module)
            found.append(Target(name, module, tuple(functions), problems.check, problems.confirm))
    if name in SHARED:
        found.append(_shared(name, *SHARED[name]))
    return found


def _modules(name: str) -> list[types.ModuleType]:
    return list(dict.fromkeys(case.module for case in GRADCHECKED[name]))


class _Problems:
    """The problems of some cases whose functions are in one module; measured when they are used."""

    def __init__(self, cases: tuple[Case, ...], module: types.ModuleType):
        self._cases, self._module = [case for case in cases if case.module is module], module

    @cached_property
    def _measured(self) -> list[Measured]:
        return [
            Measured(partial(_subject, case, problem), self._module, case.label(problem))
            for case in self._cases
            for problem in case.gradcheck
        ]

    def check(self, module: types.ModuleType) -> None:
        for each in self._measured:
            each.check(module)

    def confirm(self) -> None:
        for each in self._measured:
            each.confirm()


def _subject(case: Case, problem: Problem, module: types.ModuleType) -> tuple:
    return case.subject(problem, module)


# ------------------------------------------------------------------------------------------- files that others inherit


def _shared(name: str, path: str, functions: tuple[str, ...], users: tuple[str, ...]) -> Target:
    module = import_module(path)
    problems = [(each, _Problems(GRADCHECKED[user], each)) for user in users for each in _modules(user)]

    def check(copy: types.ModuleType) -> None:
        with _exchanged(module, copy, functions):
            for own, each in problems:
                each.check(own)

    return Target(name, module, functions, check, lambda: None)


def _optimizer() -> Target:
    """The base class of all optimizers, tried with some of them."""
    module = import_module("minillm.optim.optimizer")
    own = {name: import_module(f"minillm.optim.{name}") for name in ("lion", "sgd", "adamw")}

    def check(copy: types.ModuleType) -> None:
        with _exchanged(module, copy, OF_ALL_OPTIMIZERS):
            check_base(module)
            for name in own:
                CHECKS[name](own[name])

    return Target("optimizer", module, OF_ALL_OPTIMIZERS, check, partial(check, module))


@contextmanager
def _exchanged(module: types.ModuleType, copy: types.ModuleType, names: tuple[str, ...]) -> Iterator[None]:
    """The functions of a module do what those of its copy do: classes elsewhere inherit them."""
    functions = [(_function(module, name), _function(copy, name)) for name in names]
    codes = [function.__code__ for function, _ in functions]
    others = {name: vars(copy)[name] for name in vars(copy).keys() - vars(module).keys()}
    try:
        vars(module).update(others)
        for function, changed in functions:
            function.__code__ = changed.__code__
        yield
    finally:
        for (function, _), code in zip(functions, codes):
            function.__code__ = code
        for name in others:
            del vars(module)[name]


def _function(module: types.ModuleType, name: str) -> types.FunctionType:
    found = module
    for part in name.split("."):
        found = vars(found)[part]
    return found
