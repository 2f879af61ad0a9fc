"""minillm play"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.terminal import waiting


def command(
    model: Annotated[
        Optional[Path],
        typer.Argument(
            help="A run folder, a Hugging Face folder or hub model (owner/model), a GGUF or llama2.c file; the lessons' "
            "small model if left out.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Where the page is served, 0 for any free port.", min=0, max=65535)] = 8000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    runs: Annotated[Path, typer.Option(help="The folder of run folders.")] = Path("runs"),
) -> None:
    """Open a local page with a model alive behind it: write, backward, train, kernel, tokens."""
    from minillm.web.play.opening import open_studio
    from minillm.web.play.server import serve

    with waiting("opening the model", plain=False):
        studio = open_studio(model, runs)
    serve(studio, port, browser, lambda line: typer.echo(line, err=True))
