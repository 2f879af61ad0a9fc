"""A file of CUDA: compiled once, run in check mode on each size, then counted in profile mode."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minillm.backend.arrays import SimulatedArray
from minillm.checks.exercises.comparison import WrongElement, first_wrong
from minillm.checks.exercises.printing import captured
from minillm.checks.exercises.verdict import Verdict, size_text
from minillm.kernels.exercises.registry import Exercise
from minillm.kernels.exercises.task import Counts, KernelTask, Launch
from minillm.kernels.simulator import CompileError, RawModule, SimulatorError, configured
from minillm.kernels.simulator.complaints import kernel_name_error
from minillm.kernels.simulator.signature import check_argument
from minillm.kernels.simulator.source import EXTERN_SHARED, KernelText, kernels, line_of, masked, read_source
from minillm.kernels.simulator.tracing import Trace

SECONDS = 2.0  # of processor time that a launch may take; those of the solutions take a tenth at most


class Wrong(Exception):
    """The file is no solution; the message has what is wrong, with its line."""


def judge_cuda(exercise: Exercise, path: Path, rng: np.random.Generator, verdict: Verdict) -> None:
    """Fill in the verdict."""
    task, source = exercise.task, read_source(path)
    wanted = {each.name: each for each in kernels(exercise.skeleton.read_text(encoding="utf-8"))}
    try:
        module = _compiled(path, source, wanted)
        for number, size in enumerate(task.sizes(rng)):
            verdict.size = size_text(size)
            seed = int(rng.integers(2**31))
            order = ("ascending", "shuffled", "descending")[number % 3]
            run = _Run(task, module, size, seed, dict(mode="check", order=order, seed=seed % 1000))
            with captured() as printed:
                problem = _problem(run, path, source, wanted)
            verdict.printed = verdict.printed or printed.lines
            if problem:
                raise Wrong(problem)
            verdict.right.append(verdict.size)
    except Wrong as wrong:
        verdict.problem = str(wrong).replace(f"{path.resolve()}:", f"{path}:")
        return
    verdict.measured, verdict.best = size_text(task.measured), task.best
    with captured():
        verdict.counts = counts(_Run(task, module, task.measured, 0, {}))


def counts(run: _Run) -> Counts:
    """What the profile counts of a run."""
    run.settings = dict(mode="profile")
    profile = run.launch()
    found = profile.total("global"), profile.total("shared")
    return Counts(found[0].actual, found[1].actual, found[0].instructions + found[1].instructions)


class _Run:
    """One size: the same inputs at each launch.

    arguments: as the kernels have left them.
    """

    def __init__(self, task: KernelTask, module: RawModule, size: dict, seed: int, settings: dict):
        self.task, self.module, self.size, self.seed, self.settings = task, module, size, seed, settings
        self.before, self.arguments = self._inputs(), self._inputs()

    def _inputs(self) -> dict:
        given = self.task.inputs(np.random.default_rng(self.seed), **self.size)
        return {
            name: np.array(value).view(SimulatedArray) if isinstance(value, np.ndarray) else value
            for name, value in given.items()
        }

    def launches(self) -> list[Launch]:
        return list(self.task.launches(SimpleNamespace(**self.before)))

    def launch(self, name: str = "", element: int = 0):
        """All launches: a Profile, or None. With a name, a Trace of the element of this array."""
        self.arguments = self._inputs()
        trace = Trace(self.arguments[name], element) if name else None
        with configured(**self.settings, seconds=SECONDS, trace=trace) as profile:
            for each in self.launches():
                function = self.module.get_function(each.kernel)
                function(each.grid, each.block, tuple(self.arguments[argument] for argument in each.arguments))
        return trace or profile

    def expected(self) -> dict[str, np.ndarray]:
        """The outputs as they should be; what is not among them stays as it was."""
        exact = {
            name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in self.before.items()
        }
        outputs = self.task.expected(SimpleNamespace(**exact))
        same = {name: value for name, value in self.before.items() if isinstance(value, np.ndarray)}
        return {**outputs, **{name: value for name, value in same.items() if name not in outputs}}


def _compiled(path: Path, source: str, wanted: dict[str, KernelText]) -> RawModule:
    """The module with all kernels. Raises Wrong if one is missing, or g++ does not take the file."""
    found = {each.name: each for each in kernels(source)}
    for name, kernel in wanted.items():
        if name in found and found[name].template is None:
            continue
        said = kernel_name_error(name, str(path), list(found.values()))
        has = f"it has {', '.join(found) or 'no kernel'}"
        raise Wrong(f"{said or f'{path} has no kernel {name}: {has}'}\n  wanted: __global__ void {kernel}")
    dynamic = EXTERN_SHARED.search(masked(source))
    if dynamic:
        line, name = line_of(source, dynamic.start()), dynamic["name"]
        raise Wrong(f"{path}:{line}: the launch gives no dynamic shared memory: give {name} a size in place of extern")
    module = RawModule(path=path, name_expressions=tuple(wanted))
    try:
        module.library("check")
    except CompileError as error:
        raise Wrong(str(error)) from None
    return module


def _problem(run: _Run, path: Path, source: str, wanted: dict[str, KernelText]) -> str:
    """What is wrong at one size; "" if all is right."""
    for each in run.launches():
        _check_signature(run, each, path, source, wanted[each.kernel])
    try:
        run.launch()
    except SimulatorError as error:
        return (error.findings or [str(error)])[0]
    for name, expected in run.expected().items():
        wrong = first_wrong(name, run.arguments[name], expected, run.task.tolerance)
        if wrong:
            return _with_its_line(run, name, wrong, f"{path}:{_line_of_kernel(run, source)}")
    return _other_bits(run) if run.task.same_bits else ""


def _with_its_line(run: _Run, name: str, wrong: WrongElement, kernel: str) -> str:
    """The text of a wrong element, after the line that has written it; if none has, the line that
    writes others of the array; if there is none, the kernel's.
    """
    writer = run.launch(name, wrong.element).writer
    if writer is not None:
        return f"{writer.place}: {wrong.text}\n  written here by block {writer.block}, thread {writer.thread}"
    after, before = (np.asarray(values[name]).ravel() for values in (run.arguments, run.before))
    written = np.flatnonzero((after != before) & ~((after != after) & (before != before)))  # NaN is NaN here
    if not written.size:
        return f"{kernel}: {wrong.text}\n  no thread has written it, nor any other element"
    other = run.launch(name, int(written[-1])).writer
    return (
        f"{other.place if other else kernel}: {wrong.text}\n  no thread has written it; this line writes other elements"
    )


def _other_bits(run: _Run) -> str:
    """The line of the first element whose bits depend on the order of threads; "" if there is none."""
    first, order = run.arguments, run.settings["order"]
    run.settings["order"] = "descending" if order == "ascending" else "ascending"
    run.launch()
    for name in run.expected():
        other = first[name] != run.arguments[name]
        if other.any():
            element = int(other.argmax())
            values = (array.ravel()[element] for array in (first[name], run.arguments[name]))
            index = ", ".join(map(str, np.unravel_index(element, other.shape)))
            text = f"{name}[{index}] depends on the order of threads: " + " and then ".join(f"{x:.9g}" for x in values)
            return f"{run.launch(name, element).writer.place}: {text}"
    return ""


def _line_of_kernel(run: _Run, source: str) -> int:
    return next(each.line for each in kernels(source) if each.name == run.launches()[-1].kernel)


def _check_signature(run: _Run, launch: Launch, path: Path, source: str, wanted: KernelText) -> None:
    index = run.module.entries.index(launch.kernel)
    parameters = run.module.library("check").parameters(index)
    values = [run.arguments[name] for name in launch.arguments]
    try:
        if len(parameters) != len(values):
            raise TypeError
        for parameter, value in zip(parameters, values):
            check_argument("", parameter, value)
    except (TypeError, ValueError):
        kernel = next(each for each in kernels(source) if each.name == launch.kernel)
        raise Wrong(f"{path}:{kernel.line}: the kernel takes other arguments: {kernel}\n  wanted: {wanted}") from None
