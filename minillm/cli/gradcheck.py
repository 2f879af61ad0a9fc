"""minillm gradcheck"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Optional

import typer


class Method(str, Enum):
    differences = "differences"
    complex = "complex"


def command(
    layers: Annotated[
        Optional[list[str]], typer.Argument(help="Which layers; all if none is named.", show_default=False)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="A line for each tensor, in place of one for each layer.")
    ] = False,
    method: Annotated[
        Method, typer.Option(help="Finite differences, or the complex step: no rounding but forward's own.")
    ] = Method.differences,
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Plant faults by rule in the backward passes: which are caught?")
    ] = False,
) -> None:
    """Check hand-written gradients against finite differences, in float64, or by the complex step.

    Prints a line for each layer, the worst last: its tensors, the largest relative error and where
    it is. With --all a line for each tensor, with its shape. Exit code 1 if an error is above 1e-6
    (1e-11 by the complex step), or if finite differences cannot decide.

    --mutate changes the backward passes, one place at a time: a term dropped, another sign, axis or
    operand. It also takes adamw, lion, sgd, muon, global_norm, schedules and optimizer. Prints how
    many of these mutants the check caught, and those that survive, with their line. With --all also
    those that are the same function, and why. Exit code 1 if one survives that is not.
    """
    if mutate:
        from minillm.cli.gradcheck_mutants import mutate_and_print

        raise typer.Exit(mutate_and_print(layers or None, every))
    from minillm.cli.gradcheck_table import check_and_print

    raise typer.Exit(check_and_print(layers or None, every, method.value))
