"""Values of options that are read here, without typer's validators.

Newer versions of typer build a validator (pydantic) for every option of a command, for those that
are left out, too: 60 of `minillm generate`, the longest wait before its first token. A value that
already has its option's type needs none, and a number or path that is written plainly is read by
Python. Everything else, and with it every error message, is left to typer.

    60 options of `minillm generate`:  100 ms with validators,  1 ms here
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

_INTEGER, _DECIMAL = re.compile(r"-?[0-9]{1,18}"), re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_NOT_PLAIN = object()


class Choice(str, Enum):
    """The words that an option takes; as a text, one is its value, which is what older versions of
    typer look for.
    """

    def __str__(self) -> str:
        return self.value


class Kind(NamedTuple):
    """What the values of an option are: their type, of a list that of its elements, and their
    bounds.
    """

    type: type
    several: bool
    least: float | None
    most: float | None


def kind_of(annotation) -> Kind:
    """The kind of an `Annotated[type, Option or Argument]`.

    >>> from typing import Annotated, Optional
    >>> import typer
    >>> kind_of(Annotated[Optional[list[int]], typer.Option(min=1)])
    Kind(type=<class 'int'>, several=True, least=1, most=None)
    """
    hint, info = get_args(annotation)[:2]
    if get_origin(hint) in (Union, UnionType):
        hint = next(each for each in get_args(hint) if each is not type(None))
    several = get_origin(hint) is list
    return Kind(get_args(hint)[0] if several else hint, several, info.min, info.max)


def read_plain_values(parameters: list, kinds: Mapping[str, Kind]) -> None:
    """Let the parameters of a click command read plain values themselves; kinds: by their names."""
    for parameter in parameters:
        if parameter.name in kinds and "process_value" not in vars(parameter):
            parameter.process_value = _reader(parameter, kinds[parameter.name], parameter.process_value)


class PlainHelp:
    """Before the class of a click command: its --help, which every command line has or has not, is
    read here, too.
    """

    def get_help_option(self, context):
        option = super().get_help_option(context)
        read_plain_values([option] if option else [], {"help": Kind(bool, False, None, None)})
        return option


def _reader(parameter, kind: Kind, read_by_typer: Callable) -> Callable:
    """The method `process_value` of a parameter."""

    def process_value(context, value):
        if value is None and not parameter.required:
            plain = () if kind.several else None
        else:
            plain = plain_value(value, kind)
        if plain is _NOT_PLAIN:
            return read_by_typer(context, value)
        return parameter.callback(context, parameter, plain) if parameter.callback else plain

    return process_value


def plain_value(value, kind: Kind) -> Any:
    """A value of the command line or a default, read; _NOT_PLAIN if it is not written plainly or
    out of bounds.

    >>> plain_value("12", Kind(int, False, 1, None)), plain_value(("a", "b"), Kind(str, True, None, None))
    (12, ['a', 'b'])
    >>> [plain_value(text, Kind(int, False, 1, None)) is _NOT_PLAIN for text in ("0", "1.5", "1_000", "")]
    [True, True, True, True]
    """
    if kind.several:
        if not isinstance(value, (list, tuple)) or not value:
            return _NOT_PLAIN
        elements = [plain_value(each, kind._replace(several=False)) for each in value]
        return _NOT_PLAIN if _NOT_PLAIN in elements else elements
    if kind.type in (int, float):
        return _number(value, kind)
    if kind.type is Path:
        return _path(value)
    return value if isinstance(value, kind.type) and issubclass(kind.type, (str, bool)) else _NOT_PLAIN


def _number(value, kind: Kind) -> Any:
    if isinstance(value, str):
        if not (_INTEGER if kind.type is int else _DECIMAL).fullmatch(value):
            return _NOT_PLAIN
    elif type(value) not in (int, kind.type):
        return _NOT_PLAIN
    number = kind.type(value)
    low, high = kind.least is not None and number < kind.least, kind.most is not None and number > kind.most
    return _NOT_PLAIN if low or high else number


def _path(value) -> Any:
    """A path that may be read, or that is not there (yet)."""
    if not isinstance(value, (str, Path)):
        return _NOT_PLAIN
    try:
        os.stat(value)
    except OSError:
        return Path(value)
    except ValueError:
        return _NOT_PLAIN
    return Path(value) if os.access(value, os.R_OK) else _NOT_PLAIN
