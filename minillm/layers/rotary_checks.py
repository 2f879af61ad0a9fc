"""Checks of the fields of rotary scaling (rotary_scaling.py), which come from files of others."""

from __future__ import annotations

import sys

from minillm.errors import UserError

ORIGINAL = "original_max_position_embeddings"


def check_number(name: str, value, least: float | None = None, most: float = sys.float_info.max) -> None:
    """Raises UserError unless a field is a finite number: above 0, or from `least` to `most`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0 < value if least is None else least <= value) or not value <= most:
        expected = "above 0" if least is None else f"of at least {least}" if most > 1 else f"from {least} to {most}"
        raise UserError(f"rope_scaling: {name} is {value!r:.99}, expected a finite number {expected}")


def check_original(scaling) -> None:
    """Raises UserError unless P is a whole number from 1 on."""
    P = getattr(scaling, ORIGINAL)
    if isinstance(P, float) and P.is_integer():
        object.__setattr__(scaling, ORIGINAL, P := int(P))
    if not isinstance(P, int) or isinstance(P, bool) or not 1 <= P <= sys.maxsize:
        raise UserError(
            f"rope_scaling: {ORIGINAL} is {P!r:.99}, expected the number of tokens the model was trained on"
        )


def checked_factors(name: str, values) -> tuple[float, ...]:
    """A field that holds a factor for each pair. Raises UserError unless they are finite numbers
    above 0.
    """
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(
            f"rope_scaling: {name} is {values!r:.99}, expected a list with a number for each pair of a head"
        )
    for index, value in enumerate(values):
        check_number(f"{name}[{index}]", value)
    return tuple(values)


def check_count(name: str, factors, D: int) -> None:
    """Raises UserError unless there is a factor for each pair of a head of width D."""
    if len(factors) != D // 2:
        raise UserError(f"rope_scaling: {name} has {len(factors)} factors, a head of {D} channels has {D // 2} pairs")
