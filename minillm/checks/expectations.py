"""What a kernel of your own should compute: `minillm simulate my.cu --expect "y = a * x + y"`.

The left side is an array argument of the kernel, the right side a NumPy expression of the arguments
by their names, with the values that they had before the launch. It is computed in float64.
"""

from __future__ import annotations

import ast
import keyword
import re
from typing import NamedTuple

import numpy as np

from minillm.errors import UserError

# dtype of the array -> the error that counts as agreement, relative to |expected|, or to the root
# mean square of all elements where that is larger.
TOLERANCES = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-9}
BFLOAT16_TOLERANCE = 2e-2
BUILTINS = {"__builtins__": {"__import__": __import__}}  # a method of NumPy's imports; no expression can name it
WORDS_OF_PYTHON = re.compile(rf"\b({'|'.join(keyword.kwlist)})\b")  # which parameters are called too: in, lambda
SMALLEST_SCALE = 1e-3  # errors are relative to at least this: zeros that are computed are not exact


class Expectation(NamedTuple):
    """name: of the array.

    code: the expression, compiled. text: as it was given. names: those in the expression.
    """

    name: str
    code: object
    text: str
    names: tuple[str, ...]


def parse_expectation(text: str) -> Expectation:
    """The parts of `y = a * x + y`. Raises UserError, with an example, for anything else.

    >>> parse_expectation("y = 2 * x").names
    ('x',)
    """
    try:
        (statement,) = _parsed(text.strip()).body
        (target,) = statement.targets
        name, value = target.id, statement.value
        name = name[:-1] if keyword.iskeyword(name[:-1]) else name
    except (SyntaxError, ValueError, AttributeError):
        raise UserError(
            f'--expect "{text}": write an assignment to an array, such as --expect "y = a * x + y"'
        ) from None
    names = tuple(dict.fromkeys(node.id for node in ast.walk(value) if isinstance(node, ast.Name)))
    if any(isinstance(node, ast.Attribute) and node.attr.startswith("_") for node in ast.walk(value)):
        raise UserError(f'--expect "{text}": no attribute of an expression begins with "_"')
    return Expectation(name, compile(ast.Expression(value), "--expect", "eval"), text, names)


def _parsed(text: str) -> ast.Module:
    """A parameter called `in` is `in_` to Python, and may be written so."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.parse(WORDS_OF_PYTHON.sub(r"\1_", text))


def expected_value(expectation: Expectation, arguments: dict[str, np.ndarray]) -> np.ndarray:
    """The right side. arguments: name -> value before the launch. Functions are NumPy's, with or
    without np.

    Raises UserError for an unknown name, for an error of NumPy, and for a result of another size
    than the array.
    """
    if expectation.name not in arguments or not np.ndim(arguments[expectation.name]):
        arrays = [name for name, value in arguments.items() if np.ndim(value)]
        raise UserError(
            f'--expect "{expectation.text}": {expectation.name} is no array of the kernel, which has {", ".join(arrays)}'
        )
    named = {f"{name}_" if keyword.iskeyword(name) else name: value for name, value in arguments.items()}
    known = {"np": np, **{name: _in_float64(value) for name, value in named.items()}}
    for name in expectation.names:
        if name not in known and not hasattr(np, name):
            raise UserError(f'--expect "{expectation.text}": {name} is no argument ({", ".join(arguments)})')
        known.setdefault(name, getattr(np, name, None))
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(eval(expectation.code, dict(BUILTINS), known))
    except (TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f'--expect "{expectation.text}": {error}') from None
    shape = arguments[expectation.name].shape
    if found.size not in (1, int(np.prod(shape))):
        raise UserError(f'--expect "{expectation.text}": the result is {found.shape}, {expectation.name} is {shape}')
    return np.broadcast_to(found, shape) if found.size == 1 else found.reshape(shape)


def compare(expectation: Expectation, found: np.ndarray, expected: np.ndarray, tolerance: float) -> tuple[str, bool]:
    """A line with the worst element, and whether all elements agree.

    A NaN agrees with a NaN only.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        scale = max(SMALLEST_SCALE, float(np.sqrt(np.nanmean(np.square(expected)))) if expected.size else 0)
        errors = np.where(same, 0, np.abs(found - expected) / np.maximum(scale, np.abs(expected)))
    errors = np.where(np.isnan(errors), np.inf, errors)
    wrong = int((errors > tolerance).sum())
    if not found.size:
        return f"  expected {expectation.text}: no elements", True
    worst = np.unravel_index(int(np.argmax(errors)), found.shape)
    place = f"{expectation.name}[{', '.join(map(str, worst))}]"
    values = f"{place} is {found[worst]:.7g}, expected {expected[worst]:.7g}"
    if wrong:
        return (
            f"  expected {expectation.text}: FAILED at {wrong:,} of {found.size:,} elements\n    worst: {values}",
            False,
        )
    return f"  expected {expectation.text}: passed\n    worst: {values}", True


def tolerance_of(array: np.ndarray, is_bfloat16: bool) -> float:
    """The relative error that counts as agreement; 0 for integers."""
    return BFLOAT16_TOLERANCE if is_bfloat16 else TOLERANCES.get(array.dtype.name, 0.0)


def _in_float64(value) -> np.ndarray | np.generic:
    return value.astype(np.float64) if value.dtype.kind == "f" else value
