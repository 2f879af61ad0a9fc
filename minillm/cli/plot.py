"""minillm plot"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option(help="The picture: a file that ends in .png, .svg or .pdf.")] = Path("plot.png"),
) -> None:
    """Draw the losses of runs over one another: training and validation text by step, with
    perplexity at the right.
    """
    import sys

    from minillm.training.plot import plot_runs

    print(f"wrote {plot_runs(runs, out)}", file=sys.stderr)
