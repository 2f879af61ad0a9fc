"""Linear: a learned matrix applied to every row. Most of a language model's arithmetic happens
here.

    y_nj = sum_i x_ni w_ij + b_j                             n: row (a token), i: input, j: output

Let dy_nj = dL/dy_nj be the gradient that arrives from above. Each gradient is the chain rule summed
over all the outputs that the quantity took part in:

    dx_ni = sum_j dL/dy_nj dy_nj/dx_ni = sum_j dy_nj w_ij              dx = dy @ w^T
    dw_ij = sum_n dL/dy_nj dy_nj/dw_ij = sum_n x_ni dy_nj              dw = x^T @ dy
    db_j  = sum_n dL/dy_nj dy_nj/db_j  = sum_n dy_nj                   db = 1^T @ dy

The weight is stored as (in, out), the orientation of GPT-2's files, unless `transposed`: then it is
(out, in), as in Llama's files and in every token embedding that serves as output head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minillm.backend.matmul import matmul
from minillm.backend.precision import gradient_dtype
from minillm.backend.skinny_matmul import skinny_gains, skinny_matmul
from minillm.layers.bias import add_bias, sum_over_rows
from minillm.layers.decoding import products
from minillm.layers.layer import Layer, Parameter


class LinearSaved(NamedTuple):
    """What backward needs of forward."""

    x: Any  # (..., I)
    weight: Any  # (I, O) or, if transposed, (O, I)
    has_bias: bool
    transposed: bool


def linear_forward(x, weight, bias=None, transposed=False, dtype=None):
    """y = x @ weight + bias.

    x (..., I), weight (I, O) or, if transposed, (O, I), bias (O,) or None  ->  y (..., O), saved
    dtype: of y, by default that of x
    """
    w = weight.T if transposed else weight  # (I, O), a view
    rows = x.reshape(-1, x.shape[-1])  # (N, I): one large product in place of many small ones
    y = matmul(rows, w, dtype=dtype)  # (N, I) @ (I, O)
    if bias is not None:
        y = add_bias(y, bias)
    return y.reshape(*x.shape[:-1], w.shape[1]), LinearSaved(x, weight, bias is not None, transposed)


def linear_backward(dy, saved, needs_dweight=True, dweight=None, dx=None, add=True):
    """dy (..., O)  ->  dx (..., I), dweight (as weight), dbias (O,) or None

    needs_dweight=False: dweight is not computed, and None. dweight: an array that the weight's
    gradient is added to by the product itself, or with add=False written to; by default a new one.
    dx (N, I): one that the gradient of x is added to.
    """
    x, weight, has_bias, transposed = saved
    w = weight.T if transposed else weight
    dy_rows = dy.reshape(-1, dy.shape[-1])  # (N, O)
    rows = x.reshape(-1, x.shape[-1])  # (N, I)
    # forward: y = matmul(rows, w, dtype=dtype)
    dx = matmul(dy_rows, w.T, dx, add=dx is not None).reshape(x.shape)  # (N, O) @ (O, I)
    add = add and dweight is not None
    if not needs_dweight:
        dweight = None
    elif transposed:
        dweight = matmul(dy_rows.T, rows, dweight, gradient_dtype(weight), add=add)  # (O, N) @ (N, I)
    else:
        dweight = matmul(rows.T, dy_rows, dweight, gradient_dtype(weight), add=add)  # (I, N) @ (N, O)
    # forward: y = add_bias(y, bias): the same bias for every row
    dbias = sum_over_rows(dy_rows) if has_bias else None
    return dx, dweight, dbias


class Linear(Layer):
    """y = x @ weight + bias, x (..., I) -> y (..., O).

    A weight that is a Parameter already is shared, not copied.
    """

    def __init__(self, weight, bias=None, transposed: bool = False):
        """weight (I, O), or (O, I) if transposed; bias (O,) or None."""
        self.weight = weight if isinstance(weight, Parameter) else Parameter(weight, 0 if transposed else 1)
        if bias is not None:
            self.bias = Parameter(bias)
        self.transposed = transposed

    def forward(self, x, with_bias=True, dtype=None):
        """x (..., I)  ->  y (..., O) of `dtype`, by default that of x.

        with_bias=False: the bias is left to the caller, who adds its gradient, too.
        """
        bias = self.bias.value if with_bias and hasattr(self, "bias") else None
        y, saved = linear_forward(x, self.weight.operand(x), bias, self.transposed, dtype)
        self.save_for_backward(saved)
        return y

    def backward(self, dy, dx=None):
        """dy (..., O)  ->  dx (..., I); adds to the gradients of weight and bias.

        dx: an array that the gradient of x is added to, and which is returned; by default a new
        one. Raises RuntimeError without a forward before it.
        """
        dx_rows = None if dx is None else dx.reshape(-1, dx.shape[-1])  # (N, I)
        place, add = self.weight.grad_place()
        # forward: y, saved = linear_forward(x, self.weight.operand(x), bias, ...)
        dx, dweight, dbias = linear_backward(dy, self.take_saved(), not self.weight.frozen, place, dx_rows, add)
        if dweight is not None:
            self.weight.add_grad(dweight)
        if dbias is not None:
            self.bias.add_grad(dbias)
        return dx

    def decode(self, x, cache, with_bias=True):
        """x (B, t, I) -> (B, t, O). One row: packed_linear.py; a few rows: skinny_matmul.py.

        with_bias=False: the bias is left to the caller.
        """
        if cache.on_device:
            return products(x, (self,), cache, with_bias)[0]
        weight = self.weight.peek()
        if cache.one_token:
            if with_bias and (packed := cache.packed(self)) is not None:
                return packed(x)
            y = x @ (weight.T if self.transposed else weight)  # (1, 1, I) @ (I, O)
        else:
            rows = x.reshape(-1, x.shape[-1])  # (N, I): one large product in place of many small ones
            y = rows_product(rows, weight, self.transposed).reshape(*x.shape[:-1], -1)
        if with_bias and hasattr(self, "bias"):
            y += self.bias.peek()
        return y

    def decode_onto(self, residual, x, cache):
        """residual + decode(x, cache); see Layer.decode_onto."""
        return products(x, (self,), cache, residual=residual)[0]


def rows_product(rows, weight, transposed: bool, out=None):
    """rows (N, I) @ weight, or weight^T if transposed  ->  (N, O), in host memory, with nothing
    saved. out (N, O): where it is written.
    """
    if not skinny_gains(rows, weight):
        return np.matmul(rows, weight.T if transposed else weight, out=out)
    y = skinny_matmul(rows, weight, transposed)
    if out is None:
        return y
    out[...] = y
    return out


def projected(layer, x, with_bias: bool):
    """layer.forward(x), where the layer is a Linear or one of your own, which takes x alone.

    with_bias=False: the layer is a Linear, whose bias is left to the caller.
    """
    return layer.forward(x) if with_bias else layer.forward(x, with_bias=False)


def backward_onto(layer, dy, dx):
    """dx + layer.backward(dy), written over dx: in the product itself where backward is that of a
    Linear.
    """
    own = vars(layer).get("backward")
    is_ours = own is None or getattr(own, "only_takes_time", False)
    if is_ours and isinstance(layer, Linear) and type(layer).backward.__module__.startswith("minillm.layers."):
        return layer.backward(dy, dx)
    dx += layer.backward(dy)
    return dx
