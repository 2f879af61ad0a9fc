"""Checks that every model configuration shares."""

from __future__ import annotations

from dataclasses import fields

from minillm.errors import UserError


def check_positive_integers(config, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} is {value!r}: it must be a whole number of at least 1")


def check_heads(config) -> None:
    if config.d_model % config.n_head:
        lower = config.d_model // config.n_head * config.n_head
        raise UserError(
            f"d_model ({config.d_model}) is not divisible by n_head ({config.n_head}): every head needs the same width; "
            f"use d_model {lower or config.n_head} or {lower + config.n_head}, or another n_head"
        )


def check_dropout(config) -> None:
    if not 0 <= config.dropout < 1:
        raise UserError(f"dropout is {config.dropout}: it must be at least 0 and below 1 (0 turns it off)")


def field_names(config_class) -> tuple[str, ...]:
    return tuple(field.name for field in fields(config_class))
