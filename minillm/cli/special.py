"""The option --special, which several commands have."""

from __future__ import annotations

from enum import Enum

import typer


class Special(str, Enum):
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


def end_of_text_note(tokenizer, *ids) -> str | None:
    """A line on how often the end of text is among ids; None where it is not."""
    import numpy as np

    from minillm.data import end_of_text

    ends = end_of_text(tokenizer)
    count = sum(int(np.isin(part, list(ends.values())).sum()) for part in ids)
    return f"{count:,} of them {'is' if count == 1 else 'are'} the end of text, {' or '.join(ends)}" if count else None
