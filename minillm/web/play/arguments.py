"""What a page sends, checked: each function reads one argument of a request.

All of them raise UserError, which names the argument and says what it must be.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from minillm.errors import UserError


def text(arguments: Mapping, name: str, longest: int) -> str:
    """A text of at most so many characters; "" where it is missing."""
    value = arguments.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"{name} is {value!r:.40}: it must be a text")
    if len(value) > longest:
        raise UserError(f"{name} has {len(value):,} characters: at most {longest:,} are read")
    return value


def whole(arguments: Mapping, name: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    value = arguments.get(name)
    if type(value) is not int or not least <= value <= most:
        raise UserError(f"{name} is {value!r:.40}: it must be a whole number from {least:,} to {most:,}")
    return value


def number_or_none(arguments: Mapping, name: str) -> float | None:
    """A finite number, or None where it is missing or null."""
    value = arguments.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise UserError(f"{name} is {value!r:.40}: it must be a number")
    return float(value)


def id_list(arguments: Mapping, name: str, vocabulary: int, most: int) -> list[int]:
    """A list of at most so many ids of the vocabulary; empty where it is missing."""
    value = arguments.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise UserError(f"{name} must be a list of at most {most:,} ids")
    for token in value:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise UserError(f"{name} has {token!r:.40}: the ids of the model's tokens are 0 to {vocabulary - 1:,}")
    return value
