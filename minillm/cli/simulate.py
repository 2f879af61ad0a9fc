"""minillm simulate"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.errors import UserError


class Order(str, Enum):
    """In which order threads take turns."""

    ascending = "ascending"
    descending = "descending"
    shuffled = "shuffled"


def command(
    kernel: Annotated[
        Optional[str],
        typer.Argument(help="layer_norm, flash, ..., or a .cu file; all names if left out.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Look at every access: races, bounds, barriers.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print the source with the memory traffic of each line.")
    ] = False,
    size: Annotated[Optional[list[int]], typer.Option(help="A size of the problem; once for each.", min=0)] = None,
    order: Annotated[Order, typer.Option(help="In which order threads take turns.")] = Order.ascending,
    seed: Annotated[int, typer.Option(help="Of random arguments and of the order shuffled.")] = 0,
    name: Annotated[
        str, typer.Option("--kernel", help='Of a .cu file: the kernel, such as "saxpy<float>".', show_default=False)
    ] = "",
    grid: Annotated[Optional[list[int]], typer.Option(help="Of a .cu file: blocks; up to three times.", min=1)] = None,
    block: Annotated[
        Optional[list[int]], typer.Option(help="Of a .cu file: threads; up to three times.", min=1)
    ] = None,
    arg: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Of a .cu file: float32:2, int32:9, float32[1000], int32[8,4]=0; in order.", show_default=False
        ),
    ] = None,
    shared: Annotated[int, typer.Option(help="Of a .cu file: bytes of dynamic shared memory.", min=0)] = 0,
) -> None:
    """Run a CUDA kernel with no GPU, and see what it does.

    A kernel of minillm is compared with NumPy in float64; one of your own runs on the arguments given. Exit code 1 if the
    results differ or check mode finds a fault. It needs Linux and g++. It shows that a kernel is right and free of races on
    the inputs tried, not that it is fast: there is no timing, no concurrency between blocks, no TMA and no wgmma.
    """
    from minillm.kernel_samples import SAMPLES
    from minillm.simulation import simulate_file, simulate_sample

    if kernel is None:
        for each, sample in SAMPLES.items():
            print(f"{each:<20} {', '.join(f'{key} {n}' for key, n in zip(sample.size_names, sample.size))}")
        return
    if check and profile:
        raise UserError("--check and --profile are two different runs: choose one")
    mode = "check" if check else "profile" if profile else "run"
    if kernel.endswith((".cu", ".cuh")):
        dimensions = tuple(grid or (1,)), tuple(block or (32,))
        report, well = simulate_file(Path(kernel), name, *dimensions, arg or [], shared, mode, order.value, seed)
    else:
        report, well = simulate_sample(kernel, tuple(size or ()), mode, order.value, seed)
    print(report)
    sys.stdout.flush()
    raise typer.Exit(0 if well else 1)
