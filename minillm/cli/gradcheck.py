"""minillm gradcheck"""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def command(
    layers: Annotated[
        Optional[list[str]], typer.Argument(help="Which layers; all if none is named.", show_default=False)
    ] = None,
) -> None:
    """Check hand-written gradients against finite differences, in float64.

    Prints a row for every tensor: its shape, the largest relative error and the element where it occurs. Exit code 1 if any
    is above 1e-6, or if it cannot be told whether a gradient is right.
    """
    from minillm.cli.gradcheck_table import check_and_print

    raise typer.Exit(check_and_print(layers or None))
