"""Checks that every model configuration shares."""

from __future__ import annotations

import sys
from dataclasses import field

from minillm.errors import UserError

LARGEST = 1 << 28  # of a whole number in a configuration: the size of a matrix in bytes then fits 64 bits


def option(default, help: str, panel: str = "The model", **more):
    """A dataclass field that is an option of the command line, too, with its help text under the
    heading `panel`.

    more: what else cli/options.py reads, such as the option's name.
    """
    return field(default=default, metadata={"help": help, "panel": panel, **more})


def check_positive_integers(config, names: tuple[str, ...]) -> None:
    """Raises UserError unless these fields are whole numbers from 1 to LARGEST."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} is {value!r}: it must be a whole number of at least 1")
        if value > LARGEST:
            raise UserError(f"{name} is {value}: no model is that large (the limit is {LARGEST})")


def check_numbers(config, names: tuple[str, ...]) -> None:
    """Raises UserError unless these fields are finite numbers above 0."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise UserError(f"{name} is {value!r}: it must be a finite number above 0")


def check_flags(config, names: tuple[str, ...]) -> None:
    """Raises UserError unless these fields are True or False."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise UserError(f"{name} is {getattr(config, name)!r}: it must be true or false")


def check_heads(config) -> None:
    """Raises UserError unless d_model is divisible by n_head."""
    if config.d_model % config.n_head:
        lower = config.d_model // config.n_head * config.n_head
        raise UserError(
            f"d_model ({config.d_model}) is not divisible by n_head ({config.n_head}): every head needs the same width; "
            f"use d_model {lower or config.n_head} or {lower + config.n_head}, or another n_head"
        )


def check_dropout(config) -> None:
    """Raises UserError unless dropout is a number from 0 to below 1."""
    if isinstance(config.dropout, bool) or not isinstance(config.dropout, (int, float)) or not 0 <= config.dropout < 1:
        raise UserError(f"dropout is {config.dropout!r}: it must be at least 0 and below 1 (0 turns it off)")
