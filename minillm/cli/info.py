"""minillm info"""

from __future__ import annotations

from importlib.util import find_spec
from textwrap import fill
from typing import Annotated, Optional

import typer

from minillm.cli.options import is_given, option
from minillm.cli.terminal import fold, terminal_width, waiting
from minillm.errors import UserError

WRITING = ("stored", "float16")  # no dtypes of a training


def _option(help: str, *names: str, **limits):
    return typer.Option(*names, help=help, show_default=False, **limits)


def command(
    context: typer.Context,
    model: Annotated[
        Optional[str], _option("A preset, or a model that exists: say what memory training it takes, part by part.")
    ] = None,
    batch_size: Annotated[
        Optional[int],
        _option("With --model: windows in a batch; the preset's if not given.", "--batch", "--batch-size", min=1),
    ] = None,
    context_length: Annotated[
        Optional[int], _option("With --model: tokens in a window.", "--context", "--context-length", min=1)
    ] = None,
    dtype: Annotated[
        str,
        _option("With --model: float32, tf32, bfloat16 or float64; stored or float16: of a model that only writes."),
    ] = "float32",
    device: Annotated[str, _option("With --model: cpu, cuda or cudasim.")] = "cpu",
    checkpoint_activations: Annotated[
        bool, _option("With --model: backward computes each block again.", "--checkpoint-activations")
    ] = False,
    dropout: Annotated[Optional[float], _option("With --model: probability of dropping a value.")] = None,
    vocab_size: Annotated[Optional[int], _option("With --model PRESET: tokens of the vocabulary.", min=1)] = None,
    processes: Annotated[
        int, _option("With --model: what one of so many ranks takes, which share no memory.", "--processes", min=1)
    ] = 1,
    zero: Annotated[int, _option("With --processes: what ranks share, as for train.", "--zero", min=1, max=3)] = 1,
    threads: Annotated[Optional[int], _option("With --model: threads of each process.", "--threads", min=1)] = None,
    batch_parts: Annotated[Optional[int], _option("With --model: parts of a batch.", "--batch-parts", min=1)] = None,
) -> None:
    """Versions, the BLAS and its threads, and the devices at hand: what to say with a bug report or
    a benchmark.

    With --model: what training takes in memory, before it is started; right to a tenth. With
    --dtype stored or float16: what a model takes that only writes.
    """
    given = [name for name in context.params if name != "model" and is_given(context, name)]
    if model is None and given:
        raise UserError(f"{option(given[0])}: sizes are those of a model: name it with --model")
    if model is not None and dtype in WRITING:
        if more := [name for name in given if name not in ("dtype", "context_length")]:
            raise UserError(f"{option(more[0])} is about training, and --dtype {dtype} about writing: leave out one")
        from minillm.profiling.memory_of_writing import writing_report

        with waiting("opening the model", plain=False):
            report = writing_report(model, dtype, context_length)
        print(fold(report, terminal_width()))
        return
    if model is not None:
        from minillm.profiling.memory_report import memory_report

        sizes = (batch_size, context_length, dtype, device, checkpoint_activations, dropout, vocab_size)
        ranks = (processes, zero, threads, batch_parts)
        with waiting("adding up the memory of a step", plain=False):
            report = memory_report(model, *sizes, *ranks)
        print(fold(report, terminal_width()))
        return
    from minillm.backend.environment import describe

    for name, value in {**describe(), **_of_this_machine()}.items():
        print(fill(f"{name:<14} {value}", terminal_width(), subsequent_indent=" " * 15, break_long_words=False))


def _of_this_machine() -> dict[str, str]:
    """What a training would use here."""
    from minillm.backend.threads import cores
    from minillm.distributed.choice import choose, has_global_lock
    from minillm.distributed.launch import launched
    from minillm.distributed.machine import Machine

    launch = launched()
    return {
        "training": f"{choose(Machine(), cores())} (for batches large enough)",
        "global lock": "yes" if has_global_lock() else "no: free-threaded Python",
        "MPI": _mpi(launch),
    }


def _mpi(launch) -> str:
    if launch.size > 1:
        return f"rank {launch.rank} of the {launch.size} that {launch.launcher} started"
    if find_spec("mpi4py") is None:
        return 'not installed: pip install "minillm[mpi]"'
    return "mpi4py is installed; this process was started alone"
