"""What a page sent, checked: each function reads one argument of a request.

A wrong one is a UserError that names it; so is a missing one that has no default.
"""

from __future__ import annotations

import sys

from minillm.errors import UserError

REQUIRED = object()


def text(arguments: dict, name: str, longest: int, default=REQUIRED) -> str:
    """A text of at most `longest` characters."""
    value = _given(arguments, name, default)
    if not isinstance(value, str):
        raise UserError(f"{name} is {value!r:.40}: it must be a text")
    if len(value) > longest:
        raise UserError(f"{name} has {len(value):,} characters: at most {longest:,} are read")
    return value


def texts(arguments: dict, name: str, most: int, longest: int) -> list[str]:
    """At most `most` texts; none where the page sent none."""
    values = _given(arguments, name, [])
    if not isinstance(values, list) or len(values) > most:
        raise UserError(f"{name} must be a list of at most {most} texts")
    return [text({name: value}, name, longest) for value in values]


def whole(arguments: dict, name: str, least: int, most: int, default=REQUIRED) -> int:
    """A whole number from `least` to `most`."""
    value = _given(arguments, name, default)
    if type(value) is not int or not least <= value <= most:
        raise UserError(f"{name} is {value!r:.40}: it must be a whole number from {least:,} to {most:,}")
    return value


def number_or_none(arguments: dict, name: str) -> float | None:
    """A finite number, or None where it is missing or null."""
    value = arguments.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise UserError(f"{name} is {value!r:.40}: it must be a number")
    return float(value)


def choice(arguments: dict, name: str, among: list[str], default=REQUIRED) -> str:
    """One of several texts."""
    value = _given(arguments, name, default)
    if value not in among:
        raise UserError(f'{name}: there is no "{value!s:.40}", only {", ".join(among)}')
    return value


def part(arguments: dict, name: str, shape: tuple[int, int], default=REQUIRED) -> tuple[int, int, int, int] | None:
    """A part of a matrix of that shape: first row, last + 1, first column, last + 1."""
    value = _given(arguments, name, default)
    if value is default:
        return default
    if not isinstance(value, list) or len(value) != 4 or not all(type(number) is int for number in value):
        raise UserError(f"{name} must be four whole numbers: first row, last + 1, first column, last + 1")
    first, last, left, right = value
    if not (0 <= first < last <= shape[0] and 0 <= left < right <= shape[1]):
        raise UserError(f"{name} {value} is no part of {shape[0]:,} rows and {shape[1]:,} columns")
    return first, last, left, right


def id_list(arguments: dict, name: str, vocabulary: int, most: int) -> list[int]:
    """A list of at most so many ids of the vocabulary; empty where it is missing."""
    value = arguments.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise UserError(f"{name} must be a list of at most {most:,} ids")
    for token in value:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise UserError(f"{name} has {token!r:.40}: the ids of the model's tokens are 0 to {vocabulary - 1:,}")
    return value


def _given(arguments: dict, name: str, default):
    value = arguments.get(name, default)
    if value is REQUIRED:
        raise UserError(f"{name} is missing: reload the page")
    return value
