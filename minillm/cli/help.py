"""Help that fits the terminal: option names whole, paragraphs filled, the panels of typer."""

from __future__ import annotations

import inspect
from collections import defaultdict
from textwrap import wrap

NAMES_WIDTH = 28  # columns for options and their types; a longer one has its help on the next line
ARGUMENTS, OPTIONS = "Arguments", "Options"


def print_help(command, context) -> None:
    """Print how a command is used, what it does, and its parameters, panel by panel."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"\n {command.get_usage(context)}\n", style="bold"))
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        lines = _presets(console.width - 2) if paragraph == "{presets}" else _filled(paragraph, console.width - 2)
        console.print(Text("\n".join(lines) + "\n"))
    for title, records in _panels(command, context).items():
        lines = [line for record in records for line in _lines(*record, console.width - 4)]
        console.print(Panel(Text("\n").join(lines), title=title, title_align="left", border_style="dim"))


def _presets(width: int) -> list[str]:
    """A line for each preset, for a docstring that has a paragraph {presets}."""
    from minillm.models.presets import PRESETS

    column = max(map(len, PRESETS)) + 2
    lines = ["Presets:"]
    for name, preset in PRESETS.items():
        first, *more = _filled(preset.summary, width - column - 2)
        lines += [f"  {name:<{column}}{first}", *(" " * (column + 2) + row for row in more)]
    return lines


def _panels(command, context) -> dict[str, list[tuple[str, str]]]:
    """(names and type, help) of the parameters by their panels: arguments, options, then as they
    come.
    """
    panels = defaultdict(list, {ARGUMENTS: [], OPTIONS: []})
    for parameter in command.get_params(context):
        record = None if getattr(parameter, "hidden", False) else parameter.get_help_record(context)
        usual = OPTIONS if parameter.param_type_name == "option" else ARGUMENTS
        if record:
            panels[getattr(parameter, "rich_help_panel", None) or usual].append(record)
    return {title: records for title, records in panels.items() if records}


def _lines(names: str, text: str, width: int):
    """A parameter as lines: its names to the left, the text to the right of them or, if they are
    long, below.
    """
    from rich.text import Text

    rows = _filled(text, width - NAMES_WIDTH) or [""]
    if len(names) > NAMES_WIDTH - 2:
        yield Text(names, style="cyan")
    else:
        yield Text.assemble((f"{names:<{NAMES_WIDTH}}", "cyan"), rows.pop(0))
    for row in rows:
        yield Text(" " * NAMES_WIDTH + row)


def _filled(text: str, width: int) -> list[str]:
    return wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)
