"""`minillm simulate FILE.cu --mutate`: the mutants of a kernel of your own, on the arguments given.

They say how good a check is: what --expect compares, and check mode. Without --expect, results are
compared with those of the kernel as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minillm.checks.expectations import compare, expected_value, parse_expectation, tolerance_of
from minillm.checks.mutation.kernel_program import Switch, compiled_schema
from minillm.checks.mutation.kernel_run import Report, bits_of, outcomes_of
from minillm.checks.simulate import SHARED_BY_DEFAULT, FileRun, kernel_of, numbers_of, parse_argument
from minillm.errors import UserError
from minillm.kernels.simulator import CompileError, RawModule
from minillm.kernels.simulator.source import read_source


class FileSubject:
    """A kernel of a module on one launch, as kernel_run.py takes it.

    launch: its configuration and arguments. seed: of random arguments; it is the problem.
    """

    def __init__(self, module: RawModule, kernel: str, launch: FileRun, seed: int):
        self.module, self.kernel, self.launch = module, kernel, launch
        self.name = kernel
        self.problems = [seed]
        self.parameters = module.library("run").parameters(module.entries.index(kernel))
        self.expectations = [parse_expectation(text) for text in launch.expect]
        self._before: dict[str, np.ndarray] = {}
        self._own: dict[str, bytes] = {}

    def run(self, seed: int) -> dict[str, np.ndarray]:
        """The arrays after the launch, by the names of their parameters."""
        rng = np.random.default_rng(seed)
        kinds = self.parameters if len(self.parameters) == len(self.launch.arguments) else ()
        kinds = kinds or [None] * len(self.launch.arguments)
        values = [parse_argument(text, rng, kind) for text, kind in zip(self.launch.arguments, kinds)]
        function = self.module.get_function(self.kernel)
        function.max_dynamic_shared_size_bytes = max(SHARED_BY_DEFAULT, self.launch.shared)
        names = function.names or [f"argument{position}" for position in range(len(values))]
        self._before = {n: numbers_of(value, kind) for n, value, kind in zip(names, values, self.parameters)}
        try:
            function(self.launch.grid, self.launch.block, tuple(values), shared_mem=self.launch.shared)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from None
        return {name: value for name, value in zip(names, values) if isinstance(value, np.ndarray)}

    def judge(self, seed: int, results: dict[str, np.ndarray]) -> str:
        """What --expect says of the arrays; without it, whether the kernel itself gives these."""
        if not self.expectations:
            bits = bits_of(results)
            self._own = self._own or bits
            other = [name for name, value in bits.items() if value != self._own[name]]
            return f"{', '.join(other)}: other bits" if other else ""
        kinds = dict(zip(self._before, self.parameters))
        for expectation in self.expectations:
            expected = expected_value(expectation, self._before)
            found, is_bfloat16 = results[expectation.name], kinds[expectation.name].kind == b"h"
            found_numbers = numbers_of(found, kinds[expectation.name])
            text, agrees = compare(expectation, found_numbers, expected, tolerance_of(found, is_bfloat16))
            if not agrees:
                return text.strip().split("\n")[0]
        return ""


def mutate_file(
    path: Path,
    kernel: str,
    launch: FileRun,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Try the mutants of a .cu file and of the headers beside it.

    kernel: its name, "" for the only one. Raises UserError for what cannot be run, and for a kernel
    that does not pass its own check.
    """
    started = time.perf_counter()
    if not path.is_file():
        raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    text, folder = read_source(path), path.resolve().parent
    chosen = kernel_of(str(path), kernel, text)

    def module_of(code: str) -> RawModule:
        return RawModule(code=code, options=(f"-I{folder}",), name_expressions=(chosen,))

    try:
        schema = compiled_schema(text, path.name, (folder,), module_of)
    except CompileError as error:
        raise UserError(str(error)) from None
    module = module_of(schema.code)
    subject = FileSubject(module, chosen, launch, seed)
    original = FileSubject(module_of(f'#line 1 "{path.name}"\n{text}'), chosen, launch, seed)
    switch = Switch(lambda: [module], schema.mutants)
    report = Report(f"{path.name}, {chosen}", left_out=schema.left_out, problems=len(subject.problems))
    report.outcomes += outcomes_of(subject, schema.mutants, switch, jobs, progress, original.run)
    if not launch.expect:
        report.notes.append("results are compared with those of the kernel as it is: --expect says what they should be")
    report.seconds = time.perf_counter() - started
    return report
