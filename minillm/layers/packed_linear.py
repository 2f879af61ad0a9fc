"""Linear layers that read the same token as one matrix product over long rows, for decoding.

For one token a product is as fast as its weights can be read. A BLAS reads rows of a few thousand
numbers at nearly the memory's speed, and rows of 576 at two thirds of it; and each call costs some
microseconds before that speed is reached. So weights stored as (out, in) with short rows are copied
once, side by side, as one (in, O_1 + O_2 + ...). SmolLM2-135M then decodes a tenth more tokens a
second: q, k and v of a token take 6.4 ms in place of 9.0 in its 30 layers.

A weight stored as (in, out) with short rows, such as GPT-2's output projections, is copied the
other way, as (out, in), if its rows are then at least as long: (3072, 768) is read at 19 GB/s as it
is, and at 34 as (768, 3072), where memory gives 35 (two cores, OpenBLAS's own threads).

The copies belong to a Cache (cache.py), which decides when they are made.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module
from minillm.layers.decoding import is_decode_of, products
from minillm.layers.linear import Linear, rows_product
from minillm.layers.stored_product import stored_products
from minillm.layers.stored_weight import StoredWeight

SHORT_ROW = 1024  # numbers; longer rows are read fast as they are
LARGE = 1 << 19  # numbers of a matrix of (in, out) from which it is read faster the other way
STRIP = 64  # rows that are transposed at a time: they and their columns fit the processor's cache


def packed_linear(x, linears: tuple[Linear, ...], cache):
    """x (B, t, I)  ->  the outputs of all `linears` side by side, (B, t, O_1 + O_2 + ...)"""
    if (packed := cache.packed(*linears)) is not None:
        return packed(x)
    if all(type(linear) is Linear and type(linear.weight.peek()) is StoredWeight for linear in linears):
        return _stored_linears(x, linears)
    if cache.on_device or not all(is_decode_of(linear, Linear) for linear in linears):
        return array_module(x).concatenate([linear.decode(x, cache) for linear in linears], axis=-1)
    weights = [linear.weight.peek() for linear in linears]
    widths = [weight.shape[0 if linear.transposed else 1] for linear, weight in zip(linears, weights)]
    rows = x.reshape(-1, x.shape[-1])  # (N, I)
    y, stop = np.empty((len(rows), sum(widths)), x.dtype), 0
    for linear, weight, width in zip(linears, weights, widths):
        start, stop = stop, stop + width
        rows_product(rows, weight, linear.transposed, out=y[:, start:stop])
        if hasattr(linear, "bias"):
            y[:, start:stop] += linear.bias.peek()
    return y.reshape(*x.shape[:-1], -1)


def _stored_linears(x, linears: tuple[Linear, ...]):
    """As packed_linear, of weights that stay as their file holds them."""
    y = stored_products(x, [each.weight.peek().T if each.transposed else each.weight.peek() for each in linears])
    column = 0
    for linear in linears:
        width = linear.weight.peek().shape[0 if linear.transposed else 1]
        if hasattr(linear, "bias"):
            y[..., column : column + width] += linear.bias.peek()
        column += width
    return y


def decoded_each(x, linears: tuple[Linear, ...], cache) -> list:
    """x (B, t, I)  ->  the output of each of `linears`, (B, t, O_1), (B, t, O_2), ..., on a device:
    plain ones together.
    """
    if all(is_decode_of(linear, Linear) for linear in linears) and len({linear.transposed for linear in linears}) == 1:
        return products(x, linears, cache)
    return [linear.decode(x, cache) for linear in linears]


def packing_pays(linears) -> bool:
    """Whether one row is multiplied faster by a copy of the weights."""
    if not all(
        type(linear) is Linear and type(linear.weight.value) is np.ndarray and linear.weight.value.shape[1] < SHORT_ROW
        for linear in linears
    ):
        return False
    if all(linear.transposed for linear in linears):
        return True
    inputs, outputs = linears[0].weight.value.shape
    return len(linears) == 1 and outputs <= inputs and inputs * outputs >= LARGE


class PackedLinear:
    """A copy of the weights and biases of linear layers: x (1, 1, I)  ->  (1, 1, O_1 + O_2 + ...)

    linears: transposed ones; or a single one that is not. Later changes of the layers' weights do
    not reach the copy.
    """

    def __init__(self, linears):
        weights = [linear.weight.value for linear in linears]  # each (O, I), or one (I, O)
        copy = np.empty((weights[0].shape[1], sum(map(len, weights))), weights[0].dtype)
        column = 0
        for weight in weights:
            for start in range(0, len(weight), STRIP):
                strip = weight[start : start + STRIP]
                copy[:, column : column + len(strip)] = strip.T
                column += len(strip)
        self._weight = copy if linears[0].transposed else copy.T  # (I, O), in the memory order of the copy
        self._bias = None
        if any(hasattr(linear, "bias") for linear in linears):
            biases = [
                linear.bias.value if hasattr(linear, "bias") else np.zeros(len(linear.weight.value))
                for linear in linears
            ]
            self._bias = np.concatenate(biases, dtype=self._weight.dtype)

    def __call__(self, x):
        y = x @ self._weight  # (1, 1, I) @ (I, O)
        if self._bias is not None:
            y += self._bias
        return y
