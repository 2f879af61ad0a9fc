"""minillm simulate"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

from minillm.cli.options import Command
from minillm.cli.plain_values import Choice
from minillm.errors import UserError

if TYPE_CHECKING:
    from minillm.checks.mutation.kernel_run import Report

OF_A_PROGRAM = ("--check", "--profile", "--cupy-too")  # they may follow a program's name


class SimulateCommand(Command):
    """What follows a program's name is for the program, but for our options directly behind it."""

    def parse_args(self, context, words):
        start = next((i for i, word in enumerate(words) if word == "-m" or word.endswith(".py")), None)
        if start is None:
            return super().parse_args(context, words)
        is_module = words[start] == "-m"
        if is_module and start + 1 == len(words):
            raise UserError("-m takes the name of a module")
        name, rest = words[start + is_module], words[start + 1 + is_module :]
        while rest and rest[0] in OF_A_PROGRAM:
            words.insert(start, rest.pop(0))
            start += 1
        context.obj = (name, tuple(rest[1:] if rest[:1] == ["--"] else rest), is_module)
        return super().parse_args(context, [*words[:start], "--", name])


class Order(Choice):
    """In which order threads take turns."""

    ascending = "ascending"
    descending = "descending"
    shuffled = "shuffled"


def command(
    context: typer.Context,
    kernel: Annotated[
        Optional[str],
        typer.Argument(
            metavar="[KERNEL | FILE.cu | SCRIPT.py | -m MODULE]",
            help="layer_norm, flash, ..., a .cu file, or a program that uses CuPy and its arguments; all names if left out.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Look at every access: races, bounds, barriers.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print the source with the memory traffic of each line.")
    ] = False,
    cupy_too: Annotated[
        bool, typer.Option("--cupy-too", help="Of a program: --check and --profile look at CuPy's own kernels, too.")
    ] = False,
    size: Annotated[
        Optional[list[str]],
        typer.Option(help="Sizes of the problem: rows=7,width=33, or each by itself in order.", show_default=False),
    ] = None,
    order: Annotated[Order, typer.Option(help="In which order threads take turns.")] = Order.ascending,
    seed: Annotated[int, typer.Option(help="Of random arguments and of the order shuffled.")] = 0,
    name: Annotated[
        str, typer.Option("--kernel", help='Of a .cu file: the kernel, such as "saxpy<float>".', show_default=False)
    ] = "",
    grid: Annotated[
        Optional[list[str]], typer.Option(help="Of a .cu file: blocks, such as 4 or 4,4.", show_default="1")
    ] = None,
    block: Annotated[
        Optional[list[str]], typer.Option(help="Of a .cu file: threads, such as 256 or 16,16.", show_default="32")
    ] = None,
    arg: Annotated[
        Optional[list[str]],
        typer.Option(help="Of a .cu file: 2 or float32:2, float32[1000], int32[8,4]=0; in order.", show_default=False),
    ] = None,
    shared: Annotated[int, typer.Option(help="Of a .cu file: bytes of dynamic shared memory.", min=0)] = 0,
    expect: Annotated[
        Optional[list[str]],
        typer.Option(
            help='Of a .cu file: what an array should be afterwards, such as "y = a * x + y" with the parameters\' names.',
            show_default=False,
        ),
    ] = None,
    mutate: Annotated[
        bool,
        typer.Option(
            "--mutate", help="Change the kernel in one place after the other: which changes does no check notice?"
        ),
    ] = False,
    stop: Annotated[
        str,
        typer.Option(
            "--break",
            metavar="[FILE:]LINE",
            help="Print the variables of a thread and its warp before this line is executed.",
            show_default=False,
        ),
    ] = "",
    thread: Annotated[
        Optional[list[str]], typer.Option(help="Of --break: the thread in its block, X[,Y[,Z]].", show_default="0")
    ] = None,
    block_index: Annotated[
        Optional[list[str]], typer.Option(help="Of --break: the block in the grid, X[,Y[,Z]].", show_default="0")
    ] = None,
    hit: Annotated[
        int, typer.Option(help="Of --break: stop when a lane comes to the line for the N-th time.", min=1)
    ] = 1,
    save: Annotated[
        Optional[Path],
        typer.Option(help="Of a .cu file: put the arrays, by parameter name, into this .npz file.", show_default=False),
    ] = None,
) -> None:
    """Run a CUDA kernel with no GPU, and see what it does.

    A kernel of minillm is compared with NumPy in float64; one of your own runs on the arguments
    given. A program that uses CuPy (minillm simulate script.py) runs with the simulator in the
    place of the GPU; --check, --profile and --cupy-too directly behind its name are for minillm,
    all that follows is for the program. --break stops nothing: the values are kept when each lane
    of the warp comes to the line, the kernel goes on, and they are printed first. Exit code 1 if
    the results differ, check mode finds a fault, a mutant survives, or no thread came to the line
    of --break. It needs Linux and g++. It shows that a kernel is right and free of races on the
    inputs tried, not that it is fast: there is no timing, no concurrency between blocks, no TMA and
    no wgmma.
    """
    if check and profile:
        raise UserError("--check and --profile are two different runs: choose one")
    if mutate and (check or profile or save or size or context.obj):
        raise UserError(
            "--mutate is for kernels and runs them in all modes: leave out --check, --profile, --save, --size"
        )
    mode = "check" if check else "profile" if profile else "run"
    if stop:
        if check or profile:
            raise UserError("--break is a run of its own: leave out --check and --profile")
    elif thread or block_index or hit > 1:
        raise UserError("--thread, --block-index and --hit say where --break LINE stops: give --break, too")
    if context.obj:
        from minillm.kernels.standin.script import Program, run_program

        program = Program(*context.obj)
        place = _breakpoint(stop, thread, block_index, hit, "" if program.is_module else program.name)
        raise typer.Exit(run_program(program, mode, cupy_too, shutil.get_terminal_size().columns, place))
    from minillm.checks.cases import KERNELS
    from minillm.checks.mutation.kernel_cases import mutate_case
    from minillm.checks.mutation.kernel_files import mutate_file
    from minillm.checks.simulate import FileRun, Way, parse_dimensions, parse_sizes, simulate_case, simulate_file

    if kernel is None:
        for each, (case, its_kernel) in KERNELS.items():
            print(f"{each:<20} {its_kernel.summary}")
            print(f"{'':<20} {', '.join(f'{key} {n}' for key, n in zip(case.dimensions, case.simulate))}")
        print("next: minillm simulate flash --check,")
        print("minillm simulate gelu --size rows=7,width=33, or a .cu file of yours,")
        print("or a program that uses CuPy")
        return
    way = Way(mode, order.value, seed, breakpoint=_breakpoint(stop, thread, block_index, hit))
    if kernel.endswith(".ipynb"):
        raise UserError(
            f"{kernel} is a notebook: save it as a script first, with jupyter nbconvert --to script {kernel}"
        )
    if kernel.endswith((".cu", ".cuh", ".cpp", ".cc", ".c", ".txt")) or Path(kernel).is_file():
        if size:
            raise UserError("--size is for kernels of minillm: a .cu file takes --grid, --block and --arg")
        run = FileRun(
            parse_dimensions("--grid", grid, 1),
            parse_dimensions("--block", block, 32),
            arg or [],
            shared,
            save,
            tuple(expect or ()),
        )
        if mutate:
            _mutate(lambda progress: mutate_file(Path(kernel), name, run, seed, progress=progress))
        simulation = simulate_file(Path(kernel), name, run, way)
    else:
        for option, given in (
            ("--kernel", name),
            ("--grid", grid),
            ("--block", block),
            ("--arg", arg),
            ("--expect", expect),
            ("--save", save),
        ):
            if given:
                raise UserError(f"{option} is for a .cu file: a kernel of minillm takes --size")
        if mutate:
            _mutate(lambda progress: mutate_case(kernel, progress=progress))
        simulation = simulate_case(kernel, parse_sizes(kernel, size or []), way)
    print(simulation.text(shutil.get_terminal_size().columns))
    sys.stdout.flush()
    raise typer.Exit(0 if simulation.well else 1)


def _mutate(run: Callable[[Callable[[int, int], None]], Report]) -> NoReturn:
    """Print what `run` finds; the count goes to a terminal meanwhile."""
    stream = sys.stderr

    def progress(done: int, count: int) -> None:
        if stream.isatty():
            print(f"\r{done} of {count} mutants", end="", file=stream, flush=True)

    try:
        report = run(progress)
    finally:
        if stream.isatty():
            print("\r\x1b[K", end="", file=stream, flush=True)
    print(report.text())
    sys.stdout.flush()
    raise typer.Exit(1 if report.survivors else 0)


def _breakpoint(stop, thread, block_index, hit, file=""):
    if not stop:
        return None
    from minillm.checks.simulate import parse_breakpoint

    return parse_breakpoint(stop, thread, block_index, hit, file)


command.cls = SimulateCommand
