"""What a page sent, checked: a wrong argument is a UserError that names it."""

from __future__ import annotations

from minillm.errors import UserError

REQUIRED = object()


def text(arguments: dict, name: str, longest: int, default=REQUIRED) -> str:
    """A text of at most `longest` characters."""
    value = _given(arguments, name, default)
    if not isinstance(value, str):
        raise UserError(f"{name} is no text")
    if len(value) > longest:
        raise UserError(f"{name} has {len(value):,} characters: at most {longest:,} are possible")
    return value


def texts(arguments: dict, name: str, most: int, longest: int) -> list[str]:
    """At most `most` texts; none where the page sent none."""
    values = _given(arguments, name, [])
    if not isinstance(values, list) or len(values) > most:
        raise UserError(f"{name} is no list of at most {most} texts")
    return [text({name: value}, name, longest) for value in values]


def number(arguments: dict, name: str, least: int, most: int, default=REQUIRED) -> int:
    """A whole number in a range."""
    value = _given(arguments, name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name}: {value!r} is no whole number from {least:,} to {most:,}")
    return value


def choice(arguments: dict, name: str, among: list[str], default=REQUIRED) -> str:
    """One of several texts."""
    value = _given(arguments, name, default)
    if value not in among:
        raise UserError(f'{name}: there is no "{value}", only {", ".join(among)}')
    return value


def _given(arguments: dict, name: str, default):
    value = arguments.get(name, default)
    if value is REQUIRED:
        raise UserError(f"{name} is missing: reload the page")
    return value
