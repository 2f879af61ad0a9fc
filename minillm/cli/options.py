"""What the commands share: help that fits the terminal, and options made from the fields of
dataclasses.

A field whose metadata has a `help` is an option: the field says its type, its default and its rule,
the metadata its help and the panel of its help. So an option is written once, where its setting is.

    top_p: float | None = setting(None, SHARE_ABOVE_0, "The likeliest tokens, ...", CUTS)    -> --top-p

Further metadata: type (if it is not the field's), choices, metavar, min, show_default.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Annotated, Optional, get_args, get_origin, get_type_hints

import typer

from minillm.cli.help import print_help
from minillm.cli.plain_values import Choice, PlainHelp, kind_of, read_plain_values
from minillm.errors import UserError

NAMES = {  # of options that are not called as their parameter or field
    "json_lines": "--json",
    "dry_breakers": "--dry-breaker",
    "banned_tokens": "--ban-token",
    "forced_tokens": "--force-token",
    "mirostat_tau": "--mirostat",
}


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line, even with the value that it has anyway."""
    return context.get_parameter_source(name).name == "COMMANDLINE"


def option(name: str) -> str:
    """A parameter of a command as it is written at the command line.

    >>> option("top_k"), option("json_lines")
    ('--top-k', '--json')
    """
    return NAMES.get(name, "--" + name.replace("_", "-"))


class Command(PlainHelp, typer.core.TyperCommand):
    """A command whose help fits the terminal: it is printed by help.py.

    A setting that is wrong is named as it was typed.
    """

    def format_help(self, context, formatter) -> None:
        print_help(self, context)

    def invoke(self, context):
        try:
            return super().invoke(context)
        except UserError as error:
            options = [each.name for each in self.get_params(context) if each.param_type_name == "option"]
            error.args = (as_typed(str(error), [name for name in options if is_given(context, name)]),)
            raise


def as_typed(message: str, given: Sequence[str]) -> str:
    """An error's message with the options that were given as they are written at the command line,
    and without Python's values.

    >>> as_typed("top_p is 7.0: it must be above 0 (1 or None turns it off)", ["top_p"])
    '--top-p is 7.0: it must be above 0 (1 turns it off)'
    >>> as_typed('weight decay is in order="hf"; temperature, and top_k of /top_k', ["weight_decay", "order", "temperature"])
    '--weight-decay is in --order hf; temperature, and top_k of /top_k'
    >>> as_typed("top_k (the run has 1), seed (the run has 2); no system (line 1)", ["top_k", "seed", "system"])
    '--top-k (the run has 1), --seed (the run has 2); no system (line 1)'
    >>> as_typed("out of memory on cpu", ["out"])
    'out of memory on cpu'
    """
    message = message.replace(" or None turns it off", " turns it off")
    for name in given:
        typed = option(name)
        message = re.sub(rf"^{name.replace('_', '[_ ]')}(?=:| is | has )", typed, message)
        message = re.sub(rf'(?<!\w){name}="(\w[\w.]*)"', rf"{typed} \1", message)
        # a single word may be one of the message
        alone, follows = ("", "") if "_" in name else (r"(?<!\w )", r"(?= \()")
        message = re.sub(rf"{alone}(?<![\w./'\"\\-]){name}(?![\w./'\"\\-]){follows}", typed, message)
    return message


def takes_fields(make_options: Callable[[], Sequence[inspect.Parameter]], panels: Sequence[str] = ()):
    """Decorator for a command: its `**settings` are the options that make_options returns, in the
    order of `panels`.

    The options are made when the command is used, not for `minillm --help`: the modules of the
    settings import NumPy.
    """

    def decorate(function):
        def command() -> None:
            """Replaced by `function` when the options are made."""

        class FieldsCommand(Command):
            def get_params(self, context):
                if not self.params:
                    made = _make_command(function, make_options(), panels)
                    self.params, self.callback = made.params, made.callback
                return super().get_params(context)

        command.__doc__ = function.__doc__
        command.cls = FieldsCommand
        return command

    return decorate


def options_of(settings: type, given_only: bool = False, defaults: Mapping = {}) -> list[inspect.Parameter]:
    """An option for each field of a dataclass that has a help text.

    given_only: an option that is left out is None, and its help shows no default but that of
    `defaults`. defaults: values that replace the fields' own.
    """
    hints = get_type_hints(settings)
    return [
        _option_of(field, hints[field.name], given_only, defaults)
        for field in fields(settings)
        if field.metadata.get("help")
    ]


def read_values(settings: type, values: Mapping) -> dict:
    """The values of options as their fields have them: tuples for lists, dicts for lists of A:B,
    names for choices.

    Raises UserError for an A:B that is not two numbers.
    """
    hints = get_type_hints(settings)
    return {name: _read(name, value, hints[name]) for name, value in values.items()}


def _option_of(field, hint, given_only: bool, defaults: Mapping) -> inspect.Parameter:
    metadata, kind = field.metadata, field.metadata.get("type") or _option_type(hint)
    if "choices" in metadata:
        kind = Choice(field.name, {name: name for name in metadata["choices"]})
    default = None if given_only or _is_empty(field) else defaults.get(field.name, field.default)
    if "choices" in metadata and default is not None:
        default = kind(default)
    name = option(field.name)
    usual = defaults.get(field.name, None if _is_empty(field) else field.default)
    shown = given_only and metadata.get("show_default", True) and _shown(name, usual)
    info = typer.Option(
        f"{name}/--no-{name[2:]}" if kind is bool else name,
        help=metadata["help"] + (f" [default: {shown}]" if shown else ""),
        rich_help_panel=metadata.get("panel"),
        show_default=not given_only and metadata.get("show_default", False),
        metavar=metadata.get("metavar"),
        min=metadata.get("min"),
    )
    kind = Annotated[Optional[kind] if default is None else kind, info]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _is_empty(field) -> bool:
    """Whether a field's default is nothing at all: an empty tuple, dict or text."""
    return field.default in ((), "", None) or callable(field.default_factory)


def _shown(name: str, value) -> str:
    """A default as it is written at the command line; empty where there is none to show, and for a
    flag that is off.

    >>> _shown("--bias", False), _shown("--bias", True), _shown("--data", ("a", "b"))
    ('', '--bias', 'a b')
    """
    if value is None or value is False:
        return ""
    return name if value is True else " ".join(value) if isinstance(value, tuple) else str(value)


def _option_type(hint) -> type:
    """What an option of a field is written as: int, float, bool, str, or a list of them (A:B is a
    str).

    >>> _option_type(Optional[float]), _option_type(tuple[str, ...])
    (<class 'float'>, list[str])
    """
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if _is_mapping(hint):
        return list[str]
    if get_origin(hint) is tuple:
        return list[kinds[0]]
    return kinds[0] if kinds else hint


def _is_mapping(hint) -> bool:
    return isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping)


def _read(name: str, value, hint):
    if isinstance(value, Enum):
        return value.value
    if _is_mapping(hint):
        return _read_pairs(option(name), value, get_args(hint)[1])
    return tuple(value or ()) if get_origin(hint) is tuple else value


def _read_pairs(name: str, pairs: Sequence[str] | None, kind: Callable) -> dict[int, float | int]:
    """Options such as 50256:-5 as a dict. Raises UserError for anything else."""
    result = {}
    for pair in pairs or ():
        left, _, right = pair.partition(":")
        try:
            result[int(left)] = kind(right)
        except ValueError:
            raise UserError(f"{name} {pair}: write two numbers with a colon between them, such as 50256:-5") from None
    return result


def _make_command(function, options: Sequence[inspect.Parameter], panels: Sequence[str]):
    """The click command of a function, its `**settings` replaced by options. Panels come in the
    order given.
    """
    hints = get_type_hints(function, include_extras=True)
    own = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]
    own = [each.replace(annotation=hints[each.name], kind=each.KEYWORD_ONLY) for each in own]
    parameters = sorted([*own, *options], key=lambda each: _panel_number(each, panels))

    def whole(**values):
        return function(**values)

    whole.__doc__, whole.__signature__ = function.__doc__, inspect.Signature(parameters)
    app = typer.Typer(add_completion=False)
    app.command()(whole)
    made = typer.main.get_command(app)
    kinds = {each.name: kind_of(each.annotation) for each in parameters if get_origin(each.annotation) is Annotated}
    read_plain_values(made.params, kinds)
    return made


def _panel_number(parameter: inspect.Parameter, panels: Sequence[str]) -> int:
    """Where a parameter's panel comes; 0 for arguments and options without one."""
    infos = [each for each in get_args(parameter.annotation)[1:] if hasattr(each, "rich_help_panel")]
    panel = infos[0].rich_help_panel if infos else None
    return 1 + list(panels).index(panel) if panel in panels else 0
