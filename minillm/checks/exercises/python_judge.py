"""A file of Python: its functions are looked at by the task's own check, gradients by gradcheck."""

from __future__ import annotations

import _thread
import ast
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np

from minillm.checks.exercises.verdict import Verdict, size_text
from minillm.checks.gradcheck import GradientError, gradcheck
from minillm.checks.verdicts import PASSED
from minillm.files.atomic import read_text
from minillm.kernels.exercises.registry import Exercise
from minillm.kernels.exercises.steps import WrongStep

SECONDS = 10.0  # of processor time, for all sizes together
SLEEPING = 6  # times that by the clock, for a function that waits
POLL = 0.05  # seconds between two looks at both
RAISED = (Exception, SystemExit)  # whatever the reader's own lines raise is a finding


class _Wrong(Exception):
    """The file is no solution; the message has what is wrong, with its line."""


def judge_python(exercise: Exercise, path: Path, rng: np.random.Generator, verdict: Verdict) -> None:
    """Fill in the verdict."""
    task = exercise.task
    try:
        with _time_limit(path):
            module, source = _module(path)
            for name in task.functions:
                if not callable(getattr(module, name, None)):
                    raise _Wrong(f"{path} has no function {name}")
            for size in task.sizes(rng):
                verdict.size = size_text(size)
                seed = int(rng.integers(2**31))
                _check(task, module, size, seed, path, source)
                verdict.right += [verdict.size] if verdict.size else []
    except _Wrong as wrong:
        verdict.problem = str(wrong)


def _module(path: Path):
    """The file as a module, and its text."""
    source = read_text(path)
    module = module_from_spec(spec_from_loader(path.stem, None, origin=str(path)))
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except SyntaxError as error:
        raise _Wrong(f"{path}:{error.lineno}: {error.msg}") from None
    except RAISED as error:
        raise _Wrong(_raised(error, path)) from None
    return module, source


def _check(task, module, size: dict, seed: int, path: Path, source: str) -> None:
    quiet = partial(gradcheck, progress=False)
    try:
        with np.errstate(all="ignore"):  # what comes of it is compared
            task.check(module, np.random.default_rng(seed), size, quiet)
    except GradientError as error:
        raise _Wrong(_place(error, task, path, source)) from None
    except WrongStep as error:
        raise _Wrong(f"{path}:{error.line}: {error}") from None
    except RAISED as error:
        raise _Wrong(_raised(error, path)) from None


def _place(error: GradientError, task, path: Path, source: str) -> str:
    """The message of a failed check, with the line that assigns the wrong gradient."""
    if error.report is None or error.report.verdict == PASSED:
        return f"{path}: {error}"
    line = _line_of_gradient(ast.parse(source), task.functions, error.report.worst.tensor)
    return f"{path}:{line}: {error}" if line else f"{path}: {error}"


def _line_of_gradient(tree: ast.Module, functions: tuple[str, ...], tensor: str) -> int:
    """The last line of the task's functions that assigns d + the name of the tensor; 0 if there is
    none.
    """
    lines = [0]
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in functions:
            for node in ast.walk(function):
                stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
                if stored and node.id == f"d{tensor}":
                    lines.append(node.lineno)
    return max(lines)


def _raised(error: BaseException, path: Path) -> str:
    """The kind and the message of an exception, with the last line of the reader's file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}:{frames[-1].lineno}" if frames else str(path)
    message = " ".join(str(error).split())
    return f"{where}: {message if isinstance(error, AssertionError) else f'{type(error).__name__}: {message}'}"


@contextmanager
def _time_limit(path: Path) -> Iterator[None]:
    """Raises _Wrong, with the line, when the time is up. Only the main thread can be
    interrupted: elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_up, done = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_interrupt_when_up, args=(is_up, done), daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt as stop:
        if not is_up.is_set():
            raise
        frames = [frame for frame in traceback.extract_tb(stop.__traceback__) if frame.filename == str(path)]
        where = f"{path}:{frames[-1].lineno}" if frames else str(path)
        raise _Wrong(f"{where}: it still runs after {SECONDS:g} seconds: a loop that does not end?") from None
    finally:
        done.set()
        watcher.join()


def _interrupt_when_up(is_up: threading.Event, done: threading.Event) -> None:
    processor, clock = time.process_time(), time.monotonic()
    while not done.wait(POLL):
        if time.process_time() - processor > SECONDS or time.monotonic() - clock > SLEEPING * SECONDS:
            is_up.set()
            return _thread.interrupt_main()
