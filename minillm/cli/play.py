"""minillm play"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from minillm.cli.terminal import INTERRUPTED, waiting
from minillm.errors import MissingExtra


def command(
    model: Annotated[
        Optional[Path],
        typer.Argument(
            help="A run folder, a Hugging Face folder or hub model (owner/model), a GGUF or llama2.c file; the lessons' "
            "small model if left out.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        Optional[int],
        typer.Option(
            help="Where the page is served: 8000, or another where that is taken.", min=0, max=65535, show_default=False
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    runs: Annotated[Path, typer.Option(help="The folder of run folders.")] = Path("runs"),
) -> None:
    """Open a local page with a model alive behind it.

    Write: the sampler as a pipeline, token by token. Backward: every tensor of a pass and its
    gradient. Train: runs, started and changed from the page. Kernel: CUDA sources with the traffic
    of each line. Tokens: a text cut into tokens, merge by merge.

    The page is served to this machine only, under an address with a secret in it. Ctrl-C ends it.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra("minillm play", error.name, "web") from None
    from minillm.web.play.opening import open_studio
    from minillm.web.play.server import serve

    with waiting("opening the model", plain=False):
        studio = open_studio(model, runs, say)
    try:
        serve(studio, port, browser, say)
    except KeyboardInterrupt:
        end_at_once()


def end_at_once() -> NoReturn:
    """End the program here, whatever its threads are at.

    Python would wait for those that are no daemons, and a step of a large model takes seconds. The
    model's thread is a daemon: Python's shutdown would end it inside of an array operation, which
    can abort the process. What a thread writes is written to temporary names.
    """
    say("\nminillm: stopped")
    sys.stdout.flush()
    os._exit(INTERRUPTED)


def say(line: str) -> None:
    """A line on standard error."""
    typer.echo(line, err=True)
