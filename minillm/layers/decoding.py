"""What layers share when they decode on a device: kernels for a few rows.

A token that is generated is one row of numbers in each layer. On a GPU that row is computed in less
time than the host takes to ask for it, so what counts is the number of launches: a product, its
bias and the residual stream are one (kernels/skinny_matmul.cu), and so are the products of several
layers that read the same row.
"""

from __future__ import annotations

from minillm.backend.arrays import contiguous
from minillm.backend.matmul import matmul
from minillm.backend.precision import downcast
from minillm.kernels import kernel_for
from minillm.layers.dropout import Dropout


def decoded_onto(residual, x, cache, *layers):
    """residual + what the layers decode from x, one after the other: all (B, t, C).

    On a device the addition is left to the first layer (`Layer.decode_onto`), where the others are
    dropout, which does nothing in generation.
    """
    first, *others = layers
    if cache.on_device and all(is_decode_of(each, Dropout) for each in others) and "decode" not in vars(first):
        return first.decode_onto(residual, x, cache)
    for layer in layers:
        x = layer.decode(x, cache)
    return residual + x


def is_decode_of(layer, kind: type) -> bool:
    """Whether a layer decodes as its class `kind` does."""
    return type(layer).decode is kind.decode and "decode" not in vars(layer)


def products(x, linears, cache, with_bias=True, residual=None, dtype=None) -> list:
    """x (..., I)  ->  for each of the plain linear layers its output (..., O), on a device.

    with_bias=False: the biases are left to the caller. residual (..., O): is added to the output,
    of a single layer. dtype: of the outputs, by default that of x.
    """
    rows = contiguous(x.reshape(-1, x.shape[-1]))  # (N, I)
    residual = None if residual is None else contiguous(residual.reshape(len(rows), -1))
    weights = [cache.weight(linear.weight, rows) for linear in linears]
    biases = [linear.bias.peek() if with_bias and hasattr(linear, "bias") else None for linear in linears]
    kernel, transposed = kernel_for("skinny_matmul", rows), linears[0].transposed
    if kernel is not None and len(rows) <= kernel.MAX_ROWS:
        together = kernel.MATRICES if transposed else 1
        found = []
        for start in range(0, len(linears), together):
            part = slice(start, start + together)
            found += kernel.skinny_matmul(rows, weights[part], biases[part], transposed, residual, dtype)
    else:
        found = [_product(rows, *each, transposed, residual, dtype) for each in zip(weights, biases)]
    return [y.reshape(*x.shape[:-1], -1) for y in found]


def _product(rows, weight, bias, transposed, residual, dtype):
    y = matmul(rows, weight.T if transposed else weight, dtype=dtype)  # (N, I) @ (I, O)
    if bias is not None:
        y += downcast(bias, y)
    return y if residual is None else residual + y
