"""Parts of a tokenizer.json: objects with a type and options, of which none is passed over.

    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}

What a file has and minillm does not know is an error that names it and its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import regex

from minillm.errors import UserError
from minillm.tokenizers.patterns import compile_expression

REQUIRED = object()
# Of how `tokenizers` reports where a token is in the text; ids do not depend on it.
OFFSETS_ONLY = (bool, True)
# Of Metaspace, which cuts text and puts it together again. str_rep and add_prefix_space are the
# older spellings.
METASPACE_OPTIONS = {
    "replacement": (str, REQUIRED),
    "prepend_scheme": (str, "always"),
    "split": ((bool, type(None)), True),
    "add_prefix_space": ((bool, type(None)), None),
    "str_rep": ((str, type(None)), None),
}


class Kind(NamedTuple):
    """How a type of component is made, and its options: name -> (type of its value, default or
    REQUIRED).
    """

    make: Callable[..., Any]
    options: dict[str, tuple[Any, Any]] = {}


def read_component(data, where: str, kinds: dict[str, Kind]):
    """What the maker of the component's type makes of its options. `where`: file and place. Raises
    UserError.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where} is {data!r:.60}, expected an object with a type")
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"{where}: the type {kind!r} is not known here, only {', '.join(kinds)}")
    where = f"{where} ({kind})"
    options = {name: value for name, value in data.items() if name != "type"}
    return kinds[kind].make(where, **checked(options, where, kinds[kind].options))


def checked(data: dict, where: str, options: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The values of all options, defaults included.

    Raises UserError for one that is unknown, missing or of another type.
    """
    if unknown := [name for name in data if name not in options]:
        raise UserError(f"{where}: the option {unknown[0]!r} ({data[unknown[0]]!r:.60}) is not known here")
    values = {}
    for name, (kind, default) in options.items():
        value = data.get(name, default)
        if value is REQUIRED:
            raise UserError(f"{where}: the option {name!r} is missing")
        numbers_only = isinstance(value, bool) and kind is int
        if name in data and (not isinstance(value, kind) or numbers_only):
            raise UserError(f"{where}: {name} is {value!r:.60}, which it cannot be")
        values[name] = value
    return values


def parts_of(data, where: str, read: Callable[[Any, str], Any]) -> list:
    """The components of a sequence, each with its place."""
    return [read(part, f"{where} {number}") for number, part in enumerate(data, start=1)]


def read_pattern(data, where: str) -> regex.Pattern:
    """{"String": "..."} or {"Regex": "..."}; an empty one matches between all characters. Raises
    UserError.
    """
    if not isinstance(data, dict) or len(data) != 1:
        raise UserError(f"{where}: the pattern {data!r:.60} is neither a String nor a Regex")
    [(kind, text)] = data.items()
    if kind not in ("String", "Regex") or not isinstance(text, str):
        raise UserError(f"{where}: the pattern {data!r:.60} is neither a String nor a Regex")
    if kind == "String":
        return regex.compile(regex.escape(text))
    try:
        return compile_expression(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
