"""minillm exercise"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.terminal import fold, terminal_width, waiting
from minillm.errors import UserError


def command(
    name: Annotated[
        Optional[str], typer.Argument(help="An exercise's name or number; without one they are listed.")
    ] = None,
    file: Annotated[
        Optional[Path], typer.Argument(help="The file to judge, if it is not NAME.cu or NAME.py here.")
    ] = None,
    hint: Annotated[bool, typer.Option("--hint", help="Print the next hint.")] = False,
    show: Annotated[bool, typer.Option("--text", help="Print the task again.")] = False,
    seed: Annotated[
        Optional[int], typer.Option(help="Of the hidden inputs; another one each time if left out.", min=0)
    ] = None,
) -> None:
    """CUDA kernels and backward passes to write yourself, judged in the simulator with no GPU.

    The first `minillm exercise NAME` writes a skeleton into the current folder and prints the task;
    later ones judge the file: races, bounds and barriers with their line, the first wrong element,
    then memory traffic beside the best known solution, in stars. Exit code 1 means that it is not
    solved. Kernels need Linux and g++.
    """
    from minillm.checks.exercises.session import begin, hint_of, judged, listing
    from minillm.kernels.exercises.registry import exercise

    if name is None:
        if hint or show or seed is not None:
            raise UserError("name an exercise: `minillm exercise` lists them")
        print(listing())
        return
    chosen = exercise(name)
    if hint or show:
        print(fold(hint_of(chosen) if hint else chosen.text, terminal_width()))
        return
    if file is None and not os.path.lexists(chosen.file):  # a link to nothing is not written over
        print(fold(begin(chosen), terminal_width()))
        return
    path, seed = file or Path(chosen.file), secrets.randbelow(10**6) if seed is None else seed
    with waiting(f"judging {path}"):
        verdict, text = judged(chosen, path, seed)
    print(fold(text, terminal_width()))
    raise typer.Exit(0 if verdict.solved else 1)
