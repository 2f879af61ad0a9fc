"""Products with weights as their file holds them (stored_weight.py): blocks, and threads.

    y = x @ W^T, W stored as (out, in):   y[:, i:j] = x @ expand(stored[i:j])^T
    y = x @ W,   W stored as (in, out):   y        += x[:, i:j] @ expand(stored[i:j])

`_write_outputs` and `_add_inputs` are these two lines, for any format. The fast ways write the same
numbers in another order, and multiply the inputs in that order:

    16 bits       words of two numbers: W = [even columns, odd columns]     `halves` of number_formats.py
    8 or 4 bits   groups of all rows of a strip side by side                arranged_weight.py

Each thread expands and multiplies blocks of its own: NumPy holds Python's lock for a few
microseconds between the calls of a block, so blocks are large. Matrices that read the same x are
shared out together, since a thread is asked for what takes longer than asking it.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import NamedTuple

import numpy as np

from minillm.backend.sharing import shared
from minillm.backend.skinny_matmul import MOST_ROWS, SMALL
from minillm.backend.threads import blas_threads
from minillm.files.number_formats import SCALES
from minillm.layers.arranged_weight import arranged_product, inputs_for, room_for

BLOCK = 1 << 19  # numbers that a thread expands at a time, at most: 2 MB
WORTH_SHARING = 1 << 17  # numbers; for fewer, asking another thread takes longer than it saves
ALIGNED = 256  # columns that are taken apart at multiples of this: no group of numbers is larger
MOST_SHARES = 4  # of the columns of a weight (in, out): more threads than these are not used
_room = threading.local()  # the block of each thread


class Part(NamedTuple):
    """A part of a product. numbers: of the weight, which is what it costs."""

    numbers: int
    compute: partial


def stored_products(x, weights) -> np.ndarray:
    """x (..., I) @ each of weights (I, O_1), (I, O_2), ...  ->  y (..., O_1 + O_2 + ...)

    The result does not depend on the number of threads. Raises ValueError for other shapes.
    """
    rows = x.reshape(-1, x.shape[-1])  # (N, I)
    y = np.empty((len(rows), sum(weight.shape[1] for weight in weights)), np.result_type(x, np.float32))
    parts, column = [], 0
    for weight in weights:
        if x.shape[-1] != weight.shape[0]:
            raise ValueError(f"x of shape {x.shape} and a weight of shape {weight.shape} cannot be multiplied")
        parts += _parts(rows, weight, y[:, column : (column := column + weight.shape[1])])
    if len(parts) > 1 and sum(part.numbers for part in parts) > WORTH_SHARING:
        shared(_compute, parts)
    else:
        with blas_threads(1):  # as where parts are shared: another number could give other bits
            for part in parts:
                _compute(part)
    return y.reshape(*x.shape[:-1], -1)


def _compute(part: Part) -> None:
    part.compute()


def blocks_of_rows(rows: int, columns: int, most: int | None = None) -> list[tuple[int, int]]:
    """(start, stop) of the rows of each block of a matrix, of `most` numbers or about BLOCK: equal
    ones, an even number of them for two threads.
    """
    count = -(-rows * columns // (most or BLOCK))
    if rows * columns > WORTH_SHARING:
        count += count % 2
    height = max(1, -(-rows // max(1, count)))
    return [(start, min(start + height, rows)) for start in range(0, rows, height)]


def room(numbers: int) -> np.ndarray:
    """Memory for so many float32 numbers, the same for each block of a thread."""
    found = getattr(_room, "numbers", None)
    if found is None or len(found) < numbers:
        found = _room.numbers = np.empty(numbers, np.float32)
    return found[:numbers]


# ------------------------------------------------------------------------------------------------------------ its parts


def _parts(x, weight, y) -> list[Part]:
    """y (N, O) = x @ weight, in parts"""
    inputs, outputs = weight.shape
    fast, most = x.dtype == np.float32, None
    has_halves = fast and weight.format.halves is not None and weight.columns % 2 == 0
    if weight.transposed and fast and weight.format.name in SCALES:
        arranged_inputs = inputs_for(x, weight.format.name)
        compute = [partial(_write_strip, arranged_inputs, strip) for strip in weight.strips()]
    elif weight.transposed and has_halves:
        halves = _halves_of_inputs(x, weight.format)
        compute = [partial(_write_outputs_of_halves, halves, weight)] * outputs
        if len(x) <= MOST_ROWS:
            most = min(BLOCK, 2 * SMALL // len(x))
            columns = np.ascontiguousarray(halves.swapaxes(1, 2))
            compute = [partial(_write_few_outputs_of_halves, columns, weight)] * outputs
    elif weight.transposed:
        compute = [partial(_write_outputs, x, weight)] * outputs
    else:
        width = max(ALIGNED, -(-outputs // (ALIGNED * MOST_SHARES)) * ALIGNED)
        columns = [slice(start, min(start + width, outputs)) for start in range(0, outputs, width)]
        add = _add_inputs_to_halves if has_halves else _add_inputs
        return [Part(inputs * (c.stop - c.start), partial(add, x, weight, y[:, c], c)) for c in columns]
    blocks = blocks_of_rows(outputs, inputs, most)
    return [Part((b - a) * inputs, partial(each, y[:, a:b], a, b)) for (a, b), each in zip(blocks, compute)]


def _write_outputs(x, weight, y, start: int, stop: int) -> None:
    """y = x @ W[start:stop]^T, W stored as (O, I): (N, I) @ (I, o)"""
    np.matmul(x, weight.block(start, stop).T, out=y)


def _add_inputs(x, weight, y, columns: slice) -> None:
    """y = sum over blocks of x[:, start:stop] @ W[start:stop, columns], W stored as (I, O)"""
    y[...] = 0
    for start, stop in blocks_of_rows(len(weight), y.shape[1]):
        y += x[:, start:stop] @ weight.block(start, stop, columns)


def _halves_of_inputs(x, number_format):
    """x (N, I)  ->  (2, N, I / 2): the even ones and the odd ones, times half of the power of two
    that `halves` leaves out; the other half is for the result, so that neither overflows.
    """
    halves = x.reshape(len(x), -1, 2).transpose(2, 0, 1)
    return halves * np.float32(2.0 ** (number_format.exponent // 2))


def _write_outputs_of_halves(x, weight, y, start: int, stop: int) -> None:
    """As _write_outputs: x (2, N, I / 2) of the even and the odd inputs"""
    products = x @ weight.halves(start, stop).swapaxes(1, 2)  # (2, N, I / 2) @ (2, I / 2, o)
    np.add(products[0], products[1], out=y)
    _restore(y, weight.format)


def _write_few_outputs_of_halves(columns, weight, y, start: int, stop: int) -> None:
    """The same from columns (2, I / 2, N), for few rows N: OpenBLAS takes a quarter of the time for
    small products in this order (skinny_matmul.py).
    """
    products = weight.halves(start, stop) @ columns  # (2, o, I / 2) @ (2, I / 2, N)
    np.add(products[0], products[1], out=y.T)
    _restore(y, weight.format)


def _add_inputs_to_halves(x, weight, y, columns: slice) -> None:
    """As _add_inputs, with the even and the odd outputs apart"""
    x = x * np.float32(2.0 ** (weight.format.exponent // 2))
    sums = 0
    for start, stop in blocks_of_rows(len(weight), y.shape[1]):
        sums = sums + x[:, start:stop] @ weight.halves(start, stop, columns)  # (N, i) @ (2, i, o / 2)
    y[:, 0::2], y[:, 1::2] = sums
    _restore(y, weight.format)


def _restore(y, number_format) -> None:
    if number_format.exponent:
        y *= np.float32(2.0 ** (number_format.exponent // 2))


def _write_strip(inputs, strip, y, start: int, stop: int) -> None:
    """As _write_outputs, from the strip of these rows (arranged_weight.py)"""
    y[...] = arranged_product(inputs, strip, room(room_for(strip)))
