r"""Column-parallel linear: each of N ranks has some columns of a matrix, for as many outputs.

Source: Shoeybi et al., "Megatron-LM" (2019), section 3. ranks.py has the operators f and g.

W = [W_0 W_1 ... W_{N-1}] is cut along its outputs, and b likewise. x is whole in every rank:

    y_rj = sum_i x_i w_ij + b_j        for the outputs j of rank r            y_r = x W_r + b_r

Nothing is exchanged. Together the ranks have y = x W + b, each a part of its channels, which is
what a row-parallel layer reads (row_linear.py).

Backward. x takes part in the outputs of all ranks, so its gradient is a sum over all j, which is
one over the ranks of sums over their own j: that is f, whose backward is the exchange.

    dx_i  = sum_j dy_j w_ij = sum_r (sum over j of r: dy_j w_ij)         dx = sum_r dy_r W_r^T
    dw_ij = sum_n x_ni dy_nj           for the outputs j of rank r       dW_r = x^T dy_r
    db_j  = sum_n dy_nj                likewise                          db_r = 1^T dy_r

Queries, keys and values of a Llama are three layers that read the same x. Each rank adds its three
terms of dx first, as it would without ranks, and the last of the three exchanges the sum: one
exchange in place of three.
"""

from __future__ import annotations

from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear import Linear, linear_backward, linear_forward
from minillm.layers.ranks import sum_over_ranks


def column_linear_forward(x, weight, bias=None, transposed=False, dtype=None):
    """x (..., I), whole, weight (I, O_r) or, if transposed, (O_r, I), bias (O_r,) or None  ->  y
    (..., O_r) of `dtype`, saved
    """
    return linear_forward(x, weight, bias, transposed, dtype)  # x_r = x: nothing is exchanged


def column_linear_backward(dy, saved, communicator, needs_dweight=True, dweight=None, dx=None, is_last=True):
    """dy (..., O_r)  ->  dx (..., I), dweight (as weight), dbias (O_r,) or None

    dx is whole, unless is_last=False: then it has this rank's terms, which another reader of x is
    going to add to and exchange. needs_dweight, dweight, dx: as in linear_backward.
    """
    # forward: linear_forward(x, weight, bias, transposed, dtype)
    dx, dweight, dbias = linear_backward(dy, saved, needs_dweight, dweight, dx)
    if is_last:
        # forward: linear_forward(x, weight, bias, transposed, dtype): each rank reads the same x
        dx = sum_over_ranks(dx, communicator)
    return dx, dweight, dbias


class ColumnLinear(Linear):
    """Some columns of a Linear: x (..., I), whole  ->  y (..., O_r), the outputs of this rank."""

    def __init__(self, weight, bias, transposed: bool, communicator, reader: int = 1, readers: int = 1):
        """weight (I, O_r), or (O_r, I) if transposed; bias (O_r,) or None; both may be Parameters.

        reader, readers: this is the layer number `reader` of so many that read the same x, in the
        order of their backward, each of which adds to the dx of the one before it. The last one
        exchanges it.
        """
        super().__init__(weight, None, transposed)
        if bias is not None:
            self.bias = as_parameter(bias)
        self._communicator = communicator
        self.reader, self.readers = reader, readers

    def forward(self, x, with_bias=True, dtype=None):
        """x (..., I)  ->  y (..., O_r) of `dtype`. with_bias=False: the bias is left to the
        caller.
        """
        bias = self.bias.value if with_bias and hasattr(self, "bias") else None
        y, saved = column_linear_forward(x, self.weight.operand(x), bias, self.transposed, dtype)
        self.save_for_backward(saved)
        return y

    def backward(self, dy, dx=None):
        """dy (..., O_r)  ->  dx (..., I), whole after the last reader of x, else this rank's terms;
        adds to the gradients of weight and bias.

        dx: the terms of the readers before this one. Raises RuntimeError without a forward before
        it, and without those terms.
        """
        check_readers(self, dx)
        dx_rows = None if dx is None else dx.reshape(-1, dx.shape[-1])
        # forward: y, saved = column_linear_forward(x, self.weight.operand(x), bias, ...)
        dx, dweight, dbias = column_linear_backward(
            dy,
            self.take_saved(),
            self._communicator,
            not self.weight.frozen,
            self.weight.grad_to_add_to(),
            dx_rows,
            is_last=self.reader == self.readers,
        )
        if dweight is not None:
            self.weight.add_grad(dweight)
        if dbias is not None:
            self.bias.add_grad(dbias)
        return dx

    decode, decode_onto = Linear.decode, Linear.decode_onto


def check_readers(layer: Layer, dx) -> None:
    """Raises RuntimeError where a reader of x is to exchange a gradient that lacks the terms of the
    readers before it, or is to add to one that was exchanged already.
    """
    if (layer.reader > 1) != (dx is not None):
        raise RuntimeError(
            f"{type(layer).__name__}({layer.name}): it is reader {layer.reader} of {layer.readers} of one x, and its backward "
            f"{'needs dx, the terms of those before it' if dx is None else 'begins dx'}: was a backward exchanged?"
        )


def as_parameter(value) -> Parameter:
    """The value itself where it is a Parameter, else a new one."""
    return value if isinstance(value, Parameter) else Parameter(value)
