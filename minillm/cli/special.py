"""The option --special, which several commands have."""

from __future__ import annotations

import typer

from minillm.cli.plain_values import Choice


class Special(Choice):
    """How special tokens in a text are read."""

    allow = "allow"
    text = "text"
    refuse = "refuse"


_READ = "read them as tokens (allow), as letters (text), or refuse them"
OF_A_PROMPT = typer.Option(
    help=f"Special tokens in the text, such as <|endoftext|>: {_READ}. If left out, they are letters; in a question "
    "of --chat, tokens.",
    show_default=False,
)
OF_DATA = typer.Option(
    help=f"Special tokens in the text: {_READ}. If left out, the end of text is a token and others are refused; a run "
    "reads as it was trained.",
    show_default=False,
)
OF_A_TEXT = typer.Option(help=f"Special tokens in the text: {_READ}.")
