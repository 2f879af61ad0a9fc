"""minillm lesson"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.options import is_given, option
from minillm.errors import UserError


def command(
    context: typer.Context,
    name: Annotated[
        Optional[str], typer.Argument(help="A lesson's name or number, or all; without one they are listed.")
    ] = None,
    text: Annotated[
        Optional[str], typer.Option(help="A sentence of your own, for lessons that read one.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")] = Path("lessons"),
    html: Annotated[
        Optional[Path], typer.Option(help="One page of it in this file, pictures inside.", show_default=False)
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Open the picture in a window, too.")] = False,
) -> None:
    """A runnable demonstration for each idea: a claim, what was measured, a picture, and what to
    try next.

    Exit code 1 means that a measurement did not bear out its claim.
    """
    from rich.console import Console

    from minillm.lessons.report import give_lessons, list_lessons

    console = Console(highlight=False)
    if name is None:
        if given := [each for each in ("text", "out", "html", "show") if is_given(context, each)]:
            raise UserError(f"{option(given[0])} is for a lesson that is given: name one")
        list_lessons(console)
        return
    if html is not None:
        if given := [each for each in ("out", "show") if is_given(context, each)]:
            raise UserError(f"with --html the pictures are inside the page: leave out {option(given[0])}")
        from minillm.web.lessons_page import write_lessons_page

        if not write_lessons_page(name, html, text, console):
            raise typer.Exit(1)
        return
    if not give_lessons(name, out, text, show, console):
        raise typer.Exit(1)
