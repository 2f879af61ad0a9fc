"""A file of CUDA: compiled once, run in check mode on each size, then counted in profile mode."""

from __future__ import annotations

import re
from functools import cached_property
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
from minillm.kernels.simulator.dialect import EXTERN_SHARED
from minillm.kernels.simulator.signature import check_argument
from minillm.kernels.simulator.source import (
    KernelText,
    kernels,
    line_of,
    masked,
    read_source,
    split_list,
)
from minillm.kernels.simulator.tracing import Trace

ORDERS = ("ascending", "shuffled", "descending")
SECONDS = 2.0  # of processor time that a launch may take; those of the solutions take a tenth at most


class Wrong(Exception):
    """The file is no solution; the message has what is wrong, with its line."""


def judge_cuda(exercise: Exercise, path: Path, rng: np.random.Generator, verdict: Verdict) -> None:
    """Fill in the verdict."""
    task, source = exercise.task, read_source(path)
    wanted = {each.name: each for each in kernels(exercise.skeleton.read_text(encoding="utf-8"))}
    try:
        module = _compiled(path, source, wanted)
        for number, size in enumerate([*task.sizes(rng), task.measured]):
            seed = int(rng.integers(2**31))
            run = _Run(task, module, size, seed, dict(mode="check", order=ORDERS[number % 3], seed=seed % 1000))
            for each in run.launches() if number == 0 else ():
                _check_signature(run, each, path, source, wanted[each.kernel])
            verdict.size = size_text(size)
            with captured() as printed:
                problem = _problem(run, path, source)
            verdict.printed = verdict.printed or printed.lines
            if problem:
                raise Wrong(problem)
            verdict.right.append(verdict.size)
        with captured():  # always the same numbers: what a histogram costs depends on them
            verdict.counts = _counts(_Run(task, module, task.measured, 0, dict(mode="profile")), path, source)
        verdict.measured, verdict.best = verdict.size, task.best
    except Wrong as wrong:
        verdict.problem = str(wrong).replace(f"{path.resolve()}:", f"{path}:")


def _counts(run: _Run, path: Path, source: str) -> Counts:
    """What the profile counts of a run, which has to be right, too."""
    try:
        profile = run.launch()
    except SimulatorError as error:
        raise Wrong((error.findings or [str(error)])[0]) from None
    wrong = _first_wrong(run)
    if wrong:
        raise Wrong(f"{path}:{_line_of_kernel(run, source)}: {wrong[1].text}, in the launch that is counted")
    memory, shared = profile.total("global"), profile.total("shared")
    return Counts(memory.actual, shared.actual, memory.instructions + shared.instructions)


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

    def launch(self, name: str = "", element: int = 0, zeroed: str = ""):
        """All launches: a Profile, or None. With a name, a Trace of the element of this array.

        zeroed: an array that is 0 before them.
        """
        self.arguments = self._inputs()
        if zeroed:
            self.arguments[zeroed][...] = 0
        trace = Trace(self.arguments[name], element) if name else None
        with configured(**self.settings, seconds=SECONDS, trace=trace) as profile:
            for each in self.launches():
                function = self.module.get_function(each.kernel)
                function(each.grid, each.block, tuple(self.arguments[argument] for argument in each.arguments))
        return trace or profile

    def fault(self, zeroed: str = "") -> str:
        """What the simulator reports first of all launches; "" if nothing."""
        try:
            self.launch(zeroed=zeroed)
        except SimulatorError as error:
            return (error.findings or [str(error)])[0]
        return ""

    def fault_in_other_orders(self) -> str:
        """A race of volatile values shows where a thread reads too late, not where it reads too
        early.
        """
        order, arguments = self.settings["order"], self.arguments
        faults = []
        for self.settings["order"] in ORDERS:
            faults += [] if self.settings["order"] == order else [self.fault()]
        self.settings["order"], self.arguments = order, arguments
        return next(filter(None, faults), "")

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """The outputs as they should be."""
        exact = {
            name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in self.before.items()
        }
        return self.task.expected(SimpleNamespace(**exact))

    def expected(self) -> dict[str, np.ndarray]:
        """All arrays as they should be: outputs first, then those that stay as they were."""
        arrays = {name: value for name, value in self.before.items() if isinstance(value, np.ndarray)}
        return {**self.outputs, **{name: value for name, value in arrays.items() if name not in self.outputs}}


def _compiled(path: Path, source: str, wanted: dict[str, KernelText]) -> RawModule:
    """All kernels, compiled. Raises Wrong if one is missing, or g++ refuses the file."""
    found = {each.name: each for each in kernels(source)}
    for name, kernel in wanted.items():
        form = f"\n  wanted: __global__ void {kernel}"
        if name not in found:
            raise Wrong(f"{path} has no kernel {name}: it has {', '.join(found) or 'none'}{form}")
        if found[name].template is not None:
            raise Wrong(f"{path}:{found[name].line}: {name} is a template: the judge calls it without <...>{form}")
        if len(split_list(found[name].parameters)) != len(split_list(kernel.parameters)):
            raise Wrong(_other_arguments(path, found[name], kernel))
    dynamic = EXTERN_SHARED.search(masked(source))
    if dynamic:
        line, name = line_of(source, dynamic.start()), dynamic["name"]
        raise Wrong(f"{path}:{line}: the launch gives no dynamic shared memory: give {name} a size in place of extern")
    module = RawModule(path=path, name_expressions=tuple(wanted))
    try:
        module.library("check")
    except CompileError as error:
        unclosed = _unclosed_brace(masked(source)) if "names no kernel" in str(error) else None
        raise Wrong(str(error) if unclosed is None else f"{path}:{unclosed}: this {{ is never closed") from None
    return module


def _unclosed_brace(plain: str) -> int | None:
    """The line of the last brace that is not closed: g++ complains behind the file's end."""
    opened = []
    for number, line in enumerate(plain.split("\n"), start=1):
        for letter in re.findall(r"[{}]", line):
            opened = [*opened, number] if letter == "{" else opened[:-1]
    return opened[-1] if opened else None


def _problem(run: _Run, path: Path, source: str) -> str:
    """What is wrong at one size; "" if all is right."""
    kernel = f"{path}:{_line_of_kernel(run, source)}"

    def placed(fault: str) -> str:
        return fault if not fault or fault.startswith(f"{path.resolve()}:") else f"{kernel}: {fault}"

    fault = run.fault()
    if fault:
        return placed(fault)
    wrong = _first_wrong(run)
    if wrong:
        return placed(run.fault_in_other_orders()) or _with_its_line(run, *wrong, kernel)
    return _other_bits(run) if run.task.same_bits else ""


def _first_wrong(run: _Run) -> tuple[str, WrongElement] | None:
    """The first array that is not as it should be, and its first wrong element."""
    for name, expected in run.expected().items():
        wrong = first_wrong(name, run.arguments[name], expected, run.task.tolerance)
        if wrong and name not in run.outputs:
            wrong = wrong._replace(text=f"{name} is not an output, and is changed: {wrong.text}")
        if wrong:
            return name, wrong
    return None


def _with_its_line(run: _Run, name: str, wrong: WrongElement, kernel: str) -> str:
    """The text of a wrong element, after the line that has written it; if none has, the line that
    writes others of the array; if there is none, the kernel's.
    """
    writer = run.launch(name, wrong.element).writer
    if writer is not None:
        text = f"{writer.place}: {wrong.text}\n  written here by block {writer.block}, thread {writer.thread}"
        return text + (
            f": it adds to {name}, which is not 0 before the launch" if _adds(run, name, wrong.element) else ""
        )
    after, before = (np.asarray(values[name]).ravel() for values in (run.arguments, run.before))
    written = np.flatnonzero((after != before) & ~((after != after) & (before != before)))  # NaN is NaN here
    if not written.size:
        return f"{kernel}: {wrong.text}\n  no thread has written it, nor any other element"
    other = run.launch(name, int(written[-1])).writer
    return (
        f"{other.place if other else kernel}: {wrong.text}\n  no thread has written it; this line writes other elements"
    )


def _adds(run: _Run, name: str, element: int) -> bool:
    """Whether a wrong element is right if its array is 0 before the launch."""
    if name not in run.outputs or run.fault(zeroed=name):
        return False
    found, expected = (np.asarray(array[name]).ravel()[element] for array in (run.arguments, run.outputs))
    return first_wrong(name, found, expected, run.task.tolerance) is None


def _other_bits(run: _Run) -> str:
    """The first element whose bits depend on the order of threads, with its line; "" if none."""
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
        raise Wrong(_other_arguments(path, kernel, wanted)) from None


def _other_arguments(path: Path, kernel: KernelText, wanted: KernelText) -> str:
    return f"{path}:{kernel.line}: the kernel takes other arguments: {kernel}\n  wanted: {wanted}"
