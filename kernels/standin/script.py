"""A CuPy program on the stand-in: it runs as Python would run it, and its kernels are observed."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from minillm.errors import UserError
from minillm.kernels.simulator import configured

HERE = Path(__file__).resolve().parent


class Program(NamedTuple):
    """A script, or a module as `python -m` runs it, and its arguments."""

    name: str
    arguments: tuple[str, ...]
    is_module: bool = False


def run_program(program: Program, mode: str = "run", of_cupy: bool = False, width: int = 80, stop=None) -> int:
    """Run a CuPy program without a GPU, and return its exit code.

    mode: "run", "check" or "profile". Findings and the profile go to standard error; where
    something was found, the exit code is 1 in the place of 0. of_cupy: observe the kernels that
    CuPy brings, too. width: columns of the profile. stop: the Breakpoint at which variables are
    shown, on standard error; the exit code is 1 if no thread came there. Raises UserError where
    there is no such program, no CuPy, or a version that the stand-in does not know.
    """
    code = None if program.is_module else _compiled(Path(program.name))
    _attach()
    if stop:
        with configured(breakpoint=stop):
            status = _exit_code(lambda: start(program, code))
        _tell(stop.report(width))
        return status or int(stop.values is None)
    if mode == "run":
        return _exit_code(lambda: start(program, code))
    from minillm.kernels.standin.observing import observed

    with observed(mode, _tell, of_cupy) as observation:
        status = _exit_code(lambda: start(program, code))
    sys.stdout.flush()
    if mode == "profile":
        _tell(observation.profile.annotated(width))
        return status
    found = len(observation.seen)
    _tell(f"check mode: {'nothing to report' if not found else '1 finding' if found == 1 else f'{found} findings'}")
    return status or int(found > 0)


def _tell(text: str) -> None:
    sys.stdout.flush()  # what the program has printed so far comes before it
    print(text, file=sys.stderr, flush=True)


def _attach() -> None:
    from minillm.kernels.standin import attach

    try:
        attach.attach()  # says in one line what is missing
    except ImportError as error:
        raise UserError(f"CuPy cannot be imported: {error}") from None
    from minillm.kernels.standin.arguments import see_arguments
    from minillm.kernels.standin.computing import carry_out_everything

    carry_out_everything()
    see_arguments()


def _compiled(path: Path):
    """The code of a script; a syntax error is shown as Python shows it."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return compile(text, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        traceback.print_exception(type(error), error, None)
        raise SystemExit(1) from None


def start(program: Program, code=None) -> None:
    """Run a program in this process, as Python would. code: of a script that is compiled already.

    Raises what the program raises, and UserError where there is no such script.
    """
    if code is None and not program.is_module:
        code = _compiled(Path(program.name))
    sys.argv = [program.name, *program.arguments]
    if program.is_module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(program.name, run_name="__main__", alter_sys=True)
        return
    sys.path.insert(0, str(Path(program.name).resolve().parent))
    main = ModuleType("__main__")
    main.__file__ = program.name
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _exit_code(run) -> int:
    """The exit code of a program as Python gives it; an exception is shown without the functions
    that run the program.
    """
    try:
        run()
    except SystemExit as stopped:
        if stopped.code is None or isinstance(stopped.code, int):
            return stopped.code or 0
        print(stopped.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.stdout.flush()
        own = error.with_traceback(_own(error.__traceback__))
        sys.excepthook(type(own), own, own.__traceback__)
        return 1
    return 0


def _own(frames):
    """A traceback without the functions here and those by which Python runs a program."""
    kept = []
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith(("<frozen", str(HERE))) and Path(file).name != "runpy.py":
            kept.append(frames)
        frames = frames.tb_next
    for frame, following in zip(kept, [*kept[1:], None]):
        frame.tb_next = following
    return kept[0] if kept else None
