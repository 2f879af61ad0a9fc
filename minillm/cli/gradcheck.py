"""minillm gradcheck"""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from minillm.cli.plain_values import Choice
from minillm.errors import UserError


class Method(Choice):
    differences = "differences"
    complex = "complex"


def command(
    layers: Annotated[
        Optional[list[str]],
        typer.Argument(
            help="Which layers; all if none is named. Or a file of your own, file.py or module:name, and names in it.",
            show_default=False,
        ),
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
    given: Annotated[
        Optional[list[str]],
        typer.Option(
            "--input",
            help="Of a file of your own: x=3,5 (a shape), y=int:10:4 (integers below 10), eps==1e-5 (a value).",
            metavar="NAME=...",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check hand-written gradients against finite differences, in float64, or by the complex step.

    Prints a line for each layer, the worst last: its tensors, the largest relative error and where
    it is. With --all a line for each tensor, with its shape. Exit code 1 if an error is above 1e-6
    (1e-11 by the complex step), or if finite differences cannot decide.

    --mutate changes the backward passes, one place at a time: a term dropped, another sign, axis or
    operand. It also takes adamw, lion, sgd, muon, global_norm, schedules and optimizer. Prints how
    many of these mutants the check caught, and those that survive, with their line. With --all also
    those that are the same function, and why. Exit code 1 if one survives that is not.

    A file of your own: its layers and forward/backward pairs are found, and their inputs made from
    the shapes in its comments. What cannot be checked is listed with the reason. Exit code 2 if
    nothing can be, or not what was named.
    """
    from minillm.cli.gradcheck_own import check_own_code, is_own_code

    if layers and is_own_code(layers[0]):
        raise typer.Exit(check_own_code(layers, given or [], method.value, every, mutate))
    if given:
        raise UserError("--input is for a file of your own: minillm gradcheck file.py --input x=3,5")
    if mutate:
        from minillm.cli.gradcheck_mutants import mutate_and_print

        raise typer.Exit(mutate_and_print(layers or None, every))
    from minillm.cli.gradcheck_table import check_and_print

    raise typer.Exit(check_and_print(layers or None, every, method.value))
