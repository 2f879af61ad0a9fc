"""A user's file, executed as a module: nothing is written, and a failure is said in one line."""

from __future__ import annotations

import _thread
import importlib
import importlib.util
import io
import os
import random
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np

from minillm.errors import UserError

LONGEST = 60.0  # seconds that an import may take
IN_MAIN = 'put it under  if __name__ == "__main__":'


def is_own_code(name: str) -> bool:
    """Whether an argument of `minillm gradcheck` names a user's code, and no layer of minillm."""
    return name.endswith((".py", ".ipynb")) or ":" in name or "/" in name or os.sep in name


def load(name: str, longest: float = LONGEST) -> tuple[ModuleType, str]:
    """(the module, the name after a colon or "") of path/to/file.py, file.py:name or module:name.

    The module is executed. Its folder is where it imports from, its arguments are none, plots are
    not shown, and no bytecode is written. Raises UserError if it cannot be imported within
    `longest` seconds.
    """
    place, only = _split(name)
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UserError(f"no file {place}: gradcheck takes a Python file, module:name, or a layer of minillm")
        return _imported(place, lambda: _from_file(path), path.resolve().parent, longest), only
    if place.endswith(".ipynb"):
        raise UserError(
            f"{place} is a notebook: save its code as a Python file (jupyter nbconvert --to script {place})"
        )
    if "/" in place or os.sep in place:
        raise UserError(f"{place} is no Python file: gradcheck takes path/to/file.py")
    return _imported(place, lambda: importlib.import_module(place), Path.cwd(), longest), only


def _split(name: str) -> tuple[str, str]:
    place, colon, only = name.rpartition(":")
    if colon and len(place) > 1 and (only.isidentifier() or not only):  # C:\x.py has a drive, and no name
        return place, only
    return name, ""


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    folder, dotted = path.parent, path.stem
    while (folder / "__init__.py").is_file():  # a part of a package is imported as such
        folder, dotted = folder.parent, f"{folder.name}.{dotted}"
    if "." in dotted:
        sys.path.insert(0, str(folder))
        return importlib.import_module(dotted.removesuffix(".__init__"))
    name = (
        path.stem if path.stem not in sys.modules and path.stem not in sys.stdlib_module_names else f"own_{path.stem}"
    )
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(place: str, importing, folder: Path, longest: float) -> ModuleType:
    """What `importing` returns. What stops it is said in one line, as a UserError."""
    late = threading.Event()

    def interrupt():
        late.set()
        _thread.interrupt_main()

    clock = threading.Timer(longest, interrupt)
    clock.daemon = True
    try:
        with _as_a_library(place, folder):
            clock.start()
            try:
                return importing()
            finally:
                clock.cancel()
    except KeyboardInterrupt:
        if not late.is_set():
            raise
        raise UserError(f"{place} is still busy after {longest:g} s of import: does it train? {IN_MAIN}") from None
    except SystemExit as error:
        why = f"it ends itself when imported (exit {error.code})"
        raise UserError(f"{place} cannot be imported: {why}{_line_of(error, place)}: {IN_MAIN}") from None
    except SyntaxError as error:
        raise UserError(f"{place} cannot be imported: line {error.lineno}: {error.msg}") from None
    except ModuleNotFoundError as error:
        raise UserError(
            f"{place} cannot be imported: {error}{_line_of(error, place)}: install it, or put it beside the file"
        ) from None
    except Exception as error:  # whatever a user's code raises
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{place} cannot be imported: {what}{_line_of(error, place)}. What runs a script: {IN_MAIN}"
        ) from None


def _line_of(error: BaseException, place: str) -> str:
    """Where in the user's file an error came from: " in line 7"."""
    name = Path(place).name
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == name]
    return f" in line {lines[-1]}" if lines else ""


@contextmanager
def _as_a_library(place: str, folder: Path) -> Iterator[None]:
    """No arguments, no terminal, no window, no bytecode; its prints go to standard error."""
    before = sys.argv, sys.stdin, sys.dont_write_bytecode, os.environ.get("MPLBACKEND")
    sys.argv, sys.stdin, sys.dont_write_bytecode = [place], io.StringIO(), True
    os.environ["MPLBACKEND"] = "Agg"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        with redirect_stdout(sys.stderr), same_random_numbers():
            yield
    finally:
        sys.argv, sys.stdin, sys.dont_write_bytecode, backend = before
        if backend is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = backend


@contextmanager
def same_random_numbers(module: ModuleType | None = None, seed: int = 0) -> Iterator[None]:
    """The hidden generators of NumPy, of Python and of a module begin anew, and are afterwards as
    they were.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    generators = [g for g in vars(module).values() if isinstance(g, np.random.Generator)] if module else []
    states = [g.bit_generator.state for g in generators]
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for generator, state in zip(generators, states):
            generator.bit_generator.state = state


class RandomNumbers:
    """The same hidden random numbers in each call of a user's function.

    Where a call draws none, which is seen once, later calls save the time.
    """

    def __init__(self, module: ModuleType):
        self._module, self._draws = module, {}

    @contextmanager
    def __call__(self, seed: int = 0) -> Iterator[None]:
        if self._draws.get(seed) is False:
            yield
            return
        with same_random_numbers(self._module, seed):
            before = self._state()
            yield
            self._draws.setdefault(seed, repr(before) != repr(self._state()))

    def _state(self) -> list:
        generators = [g.bit_generator.state for g in vars(self._module).values() if isinstance(g, np.random.Generator)]
        _, key, *rest = np.random.get_state()
        return [key.tobytes(), rest, random.getstate(), generators]
