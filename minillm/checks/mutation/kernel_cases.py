"""`minillm simulate NAME --mutate`: the mutants of a kernel of minillm, on the problems of its
case.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from minillm.backend.arrays import to_host
from minillm.backend.precision import bfloat16
from minillm.checks.agreement import agreement, placed, reference_results, relative_error
from minillm.checks.case import BACKWARD, Problem, at
from minillm.checks.cases import KERNELS
from minillm.checks.cases_attention import ATTENTION
from minillm.checks.mutation.kernel_program import Switch, compiled_schema
from minillm.checks.mutation.kernel_run import Report, outcomes_of
from minillm.checks.mutation.kernel_schema import Mutant
from minillm.checks.mutation.kernel_trial import Trial, difference
from minillm.checks.mutation.kernel_trials import WITHOUT_A_CASE, trials_of
from minillm.errors import UserError
from minillm.kernels import OPERATIONS
from minillm.kernels.simulator import RawModule

NAMES = (*KERNELS, *WITHOUT_A_CASE)
KERNELS_FOLDER = Path(import_module("minillm.kernels").__file__).parent
MAX_NUMBERS = 10_100  # of an input of a problem: larger ones take long, and reach no other places
BLOCK_OF_ATTENTION = {"flash": 64, "flash_tensor_cores": 128}  # rows that a block owns; 32 or fewer of the others
ANY_WIDTH = (at(1, 2, 1, 33, 5), at(2, 2, 2, 33, 33, causal=False, dropout=0.3))
# Relative errors in bfloat16 where what is kept for backward is rounded, too: weights, sums.
LOOSE_IN_BFLOAT16 = {"attention": 2e-2, "residual_layer_norm": 1e-2, "residual_rms_norm": 1e-2}


class Numbered(NamedTuple):
    """A problem, and the dtype of the inputs of low precision."""

    problem: Problem
    number: str

    def __str__(self) -> str:
        return f"{self.problem}, {self.number}"


class KernelSubject:
    """A kernel of minillm on the problems of its case and on its trials, as kernel_run.py takes it.

    Raises UserError for an unknown name.
    """

    def __init__(self, name: str):
        if name not in NAMES:
            raise UserError(f'no kernel "{name}": there are {", ".join(sorted(NAMES))}, or name a .cu file')
        self.name = name
        self.case, self.kernel = KERNELS.get(name, (None, None))
        self._inputs, self._expected = {}, {}

    @property
    def cuda(self):
        """The launcher's CudaFile."""
        return import_module(self.kernel.module if self.kernel else WITHOUT_A_CASE[self.name]).CUDA

    @cached_property
    def problems(self) -> Sequence[Numbered | Trial]:
        """Those of the case that are small, in every dtype that the kernel takes; and trials."""
        trials = trials_of(self.name)
        if self.case is None:
            return trials
        problems, numbers = list(self.case.kernels), OPERATIONS.get(self.case.name, ("float32",))
        if self.case is ATTENTION:
            problems = [
                *_of_attention(BLOCK_OF_ATTENTION.get(self.name, 32) + 2),
                *(ANY_WIDTH if self.name in ("naive", "tiled") else ()),
            ]
            numbers = numbers if self.name == "flash_tensor_cores" else ("float32",)
        else:
            problems = [each for each in problems if _numbers(self.case.make(each)) <= MAX_NUMBERS]
        numbers = numbers if self.case.low_precision else ("float32",)
        return [*(Numbered(problem, number) for number in numbers for problem in problems), *trials]

    def run(self, given: Numbered | Trial) -> dict[str, np.ndarray]:
        """Outputs and gradients by name."""
        if isinstance(given, Trial):
            return given.run()
        forward, backward = self._results(given)
        return forward | backward

    def judge(self, given: Numbered | Trial, results: dict[str, np.ndarray]) -> str:
        """What differs from NumPy in float64 by more than is allowed."""
        if str(given) not in self._expected:
            is_trial = isinstance(given, Trial)
            self._expected[str(given)] = given.expected() if is_trial else reference_results(self.case, *given)
        expected = self._expected[str(given)]
        if isinstance(given, Trial):
            errors = {name: (difference(results[name], value), given.limit(name)) for name, value in expected.items()}
        elif given.number == "bfloat16":
            errors = self._bfloat16_errors(results, expected[0] | expected[1])
        else:
            parts = tuple({name: results[name] for name in part} for part in expected)
            found = agreement(parts, expected, self.kernel)
            errors = {name: (error, found.allowed[name]) for name, error in found.errors.items()}
        wrong = {name: error for name, (error, allowed) in errors.items() if not error <= allowed}
        return ", ".join(f"{name} has an error of {error:.1e}" for name, error in wrong.items())

    def _bfloat16_errors(self, results, expected) -> dict[str, tuple[float, float]]:
        """Result -> its error and what is allowed: that of the exact result, rounded, twice; for a
        gradient of a weight, which is float32, that of float32.
        """
        errors = {}
        for name, reference in expected.items():
            if reference is None:
                continue
            allowed = BACKWARD
            if getattr(results[name], "dtype", None) == bfloat16():
                allowed = 2 * relative_error(np.asarray(reference).astype(bfloat16()), reference) + 1e-7
            allowed = LOOSE_IN_BFLOAT16.get(self.case.name, allowed)
            errors[name] = relative_error(results[name], reference), allowed
        return errors

    def _results(self, given: Numbered) -> tuple[dict, dict]:
        if given not in self._inputs:
            made = self.case.make(given.problem)
            self._inputs[given] = placed(self.case, made, "cudasim", None, given.number)
        inputs = SimpleNamespace(**{name: copy.deepcopy(value) for name, value in vars(self._inputs[given]).items()})
        results = self.case.results(import_module(self.kernel.module), inputs)
        return tuple({name: to_host(x) if hasattr(x, "dtype") else x for name, x in part.items()} for part in results)


def _of_attention(time: int) -> list[Problem]:
    """Attention's case has no problems for kernels: small ones that reach every place.

    time: two more than the rows that a block owns.
    """
    return [
        at(1, 4, 2, 35, 32),
        at(1, 2, 1, time + 1, 32, dropout=0.3, batch_offset=3),
        at(1, 2, 2, time, 32, causal=False, dropout=0.2),
        at(2, 2, 1, time, 32, documents=((3, time - 6, 3), (time,)), dropout=0.2),
        at(2, 1, 1, time + 4, 32, seen=5, documents=((time - 2, 6), (1, time + 3))),
    ]


def mutate_case(
    name: str,
    chosen: Callable[[list[Mutant]], list[Mutant]] = list,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Try the mutants of a kernel of minillm and of the headers that it includes.

    chosen: which of them, all by default. jobs, progress: of `outcomes_of`. Raises UserError for an
    unknown name.
    """
    subject, started = KernelSubject(name), time.perf_counter()
    cuda, options = subject.cuda, subject.cuda.options
    folders = (cuda.path.parent, KERNELS_FOLDER)
    # every mutant that one instance does not compile is left out: one of each kernel is enough
    instances = tuple(cuda.instances)

    def module_of(code: str) -> RawModule:
        return RawModule(code=code, options=options, name_expressions=_compiled(cuda, instances))

    originals = {str(given): subject.run(given) for given in subject.problems}
    schema = compiled_schema(cuda.text, cuda.path.name, folders, module_of)
    modules: list[RawModule] = []
    mutants = chosen(schema.mutants)
    report = Report(name, left_out=schema.left_out, problems=len(subject.problems))
    with cuda.compiled_from(schema.code, modules):
        switch = Switch(lambda: modules, schema.mutants)
        original = lambda given: originals[str(given)]  # noqa: E731
        report.outcomes += outcomes_of(subject, mutants, switch, jobs, progress, original)
    report.seconds = time.perf_counter() - started
    return report


def _compiled(cuda, instances: tuple[str, ...]) -> tuple[str, ...]:
    """All instances, or where each is compiled by itself the first of each kernel."""
    if not cuda.one_by_one:
        return instances
    first = {}
    for instance in instances:
        first.setdefault(instance.partition("<")[0], instance)
    return tuple(first.values())


def _numbers(a: SimpleNamespace) -> int:
    sizes = [np.size(x) for value in vars(a).values() for x in (value if isinstance(value, list) else [value])]
    return max((size for size in sizes), default=0)
