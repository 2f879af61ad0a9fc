"""Heat maps of tensors: at most so many cells, each a number of the tensor, as JSON.

A tensor is shown as a matrix (`plane`). Where this has more cells than a map may have, a cell is a
block of numbers, and its value is that one of them which is farthest from 0: a mean of a gradient
would be nearly 0 everywhere.

    {"rows": 14, "columns": 128, "block": [1, 4], "of": [14, 512], "from": [0, 0],
     "type": "int8", "scale": 0.03, "cells": ...}

of: the shape of the plane. from, block: cell (i, j) covers rows from[0] + i block[0] and so on.
cells: base64 of float32, or of int8, n of which means n * scale / 127, and -128 no number.
"""

from __future__ import annotations

import base64
import math

import numpy as np

MOST_CELLS = 128  # in each direction
LITTLE = (24, 64)  # cells of a small picture
NOT_A_NUMBER = -128


def plane(array, tokens: int) -> np.ndarray:
    """A tensor as a matrix, without a copy where that can be.

    One of heads (1, H, T, D) gets a row for each of the T tokens, its heads side by side; any other
    has its last axis as columns, and a vector is one row.
    """
    array = np.asarray(array)
    if array.ndim == 4 and array.shape[0] == 1 and array.shape[2] == tokens:
        return array[0].swapaxes(0, 1).reshape(tokens, -1)
    return array.reshape(-1, array.shape[-1] if array.ndim else 1)


def reduced(matrix: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """For each block of a matrix the number farthest from 0; NaN for a block that has one.

    >>> reduced(np.array([[1.0, -3.0, 2.0], [0.0, 1.0, 0.0]]), (2, 2))
    array([[-3.,  2.]])
    """
    matrix = np.asarray(matrix, float if matrix.dtype == float else np.float32)
    rows, columns = block
    if rows > 1:  # slices are ten times as fast as reduceat along rows
        parts = [matrix[first : first + rows] for first in range(0, len(matrix), rows)]
        matrix = _farther(np.stack([part.max(0) for part in parts]), np.stack([part.min(0) for part in parts]))
    if columns > 1:
        starts = np.arange(0, matrix.shape[1], columns)
        matrix = _farther(np.maximum.reduceat(matrix, starts, 1), np.minimum.reduceat(matrix, starts, 1))
    return matrix


def _farther(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Of the largest and the smallest number, the one farther from 0."""
    return np.where(high >= -low, high, low)


def block_for(shape: tuple[int, int], most: tuple[int, int]) -> tuple[int, int]:
    """The smallest blocks with which a matrix has no more than so many rows and columns of them."""
    return tuple(max(1, math.ceil(size / cells)) for size, cells in zip(shape, most))


def heat_map(matrix: np.ndarray, window: tuple[int, int, int, int] | None = None) -> dict:
    """The map of a matrix in float32. window: rows and columns of it, first and last + 1, twice."""
    first, last, left, right = window or (0, matrix.shape[0], 0, matrix.shape[1])
    part = matrix[first:last, left:right]
    block = block_for(part.shape, (MOST_CELLS, MOST_CELLS))
    cells = reduced(part, block).astype("<f4")
    return _map(cells, "float32", block, matrix.shape, (first, left))


def small_map(cells: np.ndarray, block: tuple[int, int], shape: tuple[int, int]) -> dict:
    """A map in int8 of cells that are reduced already, by `block`, from a matrix of that shape."""
    finite = np.isfinite(cells)
    scale = float(np.abs(cells[finite]).max(initial=0.0))
    levels = np.round(np.where(finite, cells, 0) * (127 / scale if scale else 0))
    levels = np.where(finite, levels, NOT_A_NUMBER).astype(np.int8)
    return _map(levels, "int8", block, shape, (0, 0)) | {"scale": scale}


def _map(cells: np.ndarray, kind: str, block, shape, start) -> dict:
    rows, columns = cells.shape
    return {
        "rows": rows,
        "columns": columns,
        "block": list(block),
        "of": list(shape),
        "from": list(start),
        "type": kind,
        "cells": base64.b64encode(np.ascontiguousarray(cells).tobytes()).decode(),
    }


def small_map_of(array, tokens: int) -> dict:
    """The small picture of a tensor."""
    matrix = plane(array, tokens)
    block = block_for(matrix.shape, LITTLE)
    return small_map(reduced(matrix, block), block, matrix.shape)


class SmallMaps:
    """Small pictures of the tensors of a pass, made while it runs: `see` is what record() calls.

    What is kept of a tensor is at most LITTLE numbers, and LITTLE[1] to a row until all rows came.
    The values of parameters are left out: they are there after the pass as well (`small_map_of`).
    """

    def __init__(self, tokens: int):
        self._tokens = tokens
        self._parts: dict[tuple[object, str], list[np.ndarray]] = {}
        self._shapes: dict[tuple[object, str], tuple[int, int]] = {}

    def see(self, tensor, which: str, array) -> None:
        """Reduce an array of the pass (recording.See)."""
        if tensor.place is None and which == "values":
            return
        matrix = plane(array, self._tokens)
        block, key = block_for(matrix.shape, LITTLE), (tensor, which)
        if comes_in_parts(tensor):
            self._parts.setdefault(key, []).append(reduced(matrix, (1, block[1])))
            self._shapes[key] = (self._shapes.get(key, (0, 0))[0] + matrix.shape[0], matrix.shape[1])
        else:
            self._parts[key], self._shapes[key] = [reduced(matrix, block)], matrix.shape

    def of(self, tensor) -> dict:
        """{"values": map, "gradient": map}, with None for what did not come."""
        return {which: self._finished(tensor, which) for which in ("values", "gradient")}

    def _finished(self, tensor, which: str) -> dict | None:
        parts, shape = self._parts.get((tensor, which)), self._shapes.get((tensor, which))
        if parts is None:
            return None
        block, cells = block_for(shape, LITTLE), np.concatenate(parts)
        if comes_in_parts(tensor):
            cells = reduced(cells, (block[0], 1))
        return small_map(cells, block, shape)


def comes_in_parts(tensor) -> bool:
    """Whether the arrays of a tensor that record() sees are some of its rows each."""
    return tensor.place is not None and tensor.place.side == "input" and tensor.place.index is None
