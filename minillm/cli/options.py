"""What the commands share about their options."""

from __future__ import annotations

import typer


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, be it with the value that it has anyway."""
    return context.get_parameter_source(name).name == "COMMANDLINE"


def option(name: str) -> str:
    """A parameter of a command as it is written at the command line.

    >>> option("top_k"), option("json_lines")
    ('--top-k', '--json')
    """
    return "--json" if name == "json_lines" else "--" + name.replace("_", "-")
