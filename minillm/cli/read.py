"""minillm read"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.terminal import waiting


def command(
    name: Annotated[
        Optional[str], typer.Argument(help="The page to open, such as layer_norm; the tour if left out.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the pages.")] = Path("read"),
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Pages made from the sources: derivation, forward, backward and kernel, side by side.

    The pages open from disk, without a network. Their path is printed.
    """
    import webbrowser

    from minillm.web.read.pages import write_pages

    with waiting("making the pages", plain=False):
        path = write_pages(out, name)
    print(path)
    if browser:
        webbrowser.open(path.resolve().as_uri())
