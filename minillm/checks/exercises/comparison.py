"""The first element of an array that is not what it should be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALLEST_SCALE = 1e-3  # errors are relative to at least this: zeros that are computed are not exact


class WrongElement(NamedTuple):
    """element: its number in the array, read row by row."""

    element: int
    text: str


def first_wrong(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> WrongElement | None:
    """None if all elements agree.

    tolerance: of floating point numbers, relative to the element, or to the root mean square of
    `expected` where that is larger.
    """
    found = np.asarray(found)
    expected = np.asarray(expected).reshape(found.shape)
    wrong = _wrong(found, expected, tolerance).ravel()
    if not wrong.any():
        return None
    element = int(wrong.argmax())
    index = ", ".join(map(str, np.unravel_index(element, found.shape)))
    value, right = found.ravel()[element], expected.ravel()[element]
    text = f"{name}[{index}] is {_number(value)}, expected {_number(right)}"
    others = f" (the first of {wrong.sum():,} wrong elements of {wrong.size:,})" if wrong.sum() > 1 else ""
    return WrongElement(element, text + others)


def _wrong(found: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    if found.dtype.kind != "f":
        return found != expected
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        finite = expected[np.isfinite(expected)]
        scale = max(SMALLEST_SCALE, float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0)
        near = np.abs(found - expected) <= tolerance * np.maximum(scale, np.abs(expected))
    return ~(same | near)


def _number(value) -> str:
    return f"{value:.7g}" if value.dtype.kind == "f" else str(value)
