"""Several projections of the same token as one matrix product.

For one token a product is as fast as its weights can be read, if they are many: each call costs some microseconds before
memory runs at its full speed. Weights (out, in) that stand one after the other in memory are one taller weight, so they
are moved there once, and each Parameter keeps its part as a view. Files that minillm or transformers wrote have the gate
and the up projection side by side already, and then nothing moves.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minillm.backend import array_module
from minillm.layers.linear import Linear


def stacked_products(linears: list[Linear], may_move: bool):
    """A function x (N, I) -> the outputs of all `linears` side by side, (N, O_1 + O_2 + ...).

    may_move: whether the values of their parameters may be exchanged for equal ones elsewhere.
    """
    weights = [linear.weight.value for linear in linears]
    can_stack = all(
        type(linear) is Linear and linear.transposed and type(weight) is np.ndarray
        for linear, weight in zip(linears, weights)
    )
    is_stacked = can_stack and _one_after_the_other(weights)
    if not is_stacked and not (can_stack and may_move):
        return lambda x: array_module(x).concatenate([each.product(x, with_bias=True) for each in linears], axis=-1)
    if not is_stacked:
        moved = np.concatenate(weights)
        start = 0
        for linear, weight in zip(linears, weights):
            linear.weight.value = moved[start : start + len(weight)]
            start += len(weight)
        weights = [linear.weight.value for linear in linears]
    rows = sum(len(weight) for weight in weights)
    # `weights` stays alive in the closure, and with it the memory of every part
    whole = as_strided(weights[0], (rows, weights[0].shape[1]), writeable=False)
    biases = [linear.bias.value for linear in linears if hasattr(linear, "bias")]
    bias = np.concatenate(biases) if biases else None

    def product(x, whole=whole.T, keep_alive=weights):
        y = x @ whole
        if bias is not None:
            y += bias
        return y

    return product


def _one_after_the_other(weights: list[np.ndarray]) -> bool:
    if not all(weight.flags.c_contiguous for weight in weights):
        return False
    return all(
        second.ctypes.data == first.ctypes.data + first.nbytes and second.dtype == first.dtype
        for first, second in zip(weights, weights[1:])
    )
