r"""Row-parallel linear: each of N ranks has some rows of a matrix, reads as many inputs, and has
a term of every output.

Source: Shoeybi et al., "Megatron-LM" (2019), section 3. ranks.py has the operators f and g.

W is cut along its inputs, and x = [x_0 x_1 ... x_{N-1}] is what a column-parallel layer has left in
the ranks (column_linear.py). The sum over i of a matrix product is cut with it:

    y_j = sum_i x_i w_ij + b_j = sum_r (sum over i of r: x_i w_ij) + b_j      y = sum_r x_r W_r + b

The sum over r is exchanged: that is g. b is whole in all ranks and is added to y once, after the
exchange. Were it a part of the terms, y would have N b.

Backward. The gradient of a sum is that of each of its terms, so g has the identity: dy, whole in
every rank, is all that is needed.

    dx_i  = sum_j dy_j w_ij            for the inputs i of rank r            dx_r = dy W_r^T
    dw_ij = sum_n x_ni dy_nj           likewise                              dW_r = x_r^T dy
    db_j  = sum_n dy_nj                the same in all ranks                 db = 1^T dy

db is no sum over ranks: each of them has it whole already.
"""

from __future__ import annotations

from minillm.layers.bias import add_bias, sum_over_rows
from minillm.layers.column_linear import as_parameter
from minillm.layers.linear import Linear, linear_backward, linear_forward
from minillm.layers.ranks import sum_over_ranks


def row_linear_forward(x, weight, bias, transposed, communicator, dtype=None):
    """x (..., I_r), weight (I_r, O) or, if transposed, (O, I_r), bias (O,) or None, whole  ->  y
    (..., O) of `dtype`, whole, saved
    """
    y, saved = linear_forward(x, weight, None, transposed, dtype)  # (N, I_r) @ (I_r, O), a term
    y = sum_over_ranks(y, communicator)
    if bias is not None:
        y = add_bias(y, bias)
    return y, (saved, bias is not None)


def row_linear_backward(dy, saved, needs_dweight=True, dweight=None, dx=None):
    """dy (..., O)  ->  dx (..., I_r), dweight (as weight), dbias (O,) or None

    needs_dweight, dweight, dx: as in linear_backward.
    """
    saved, has_bias = saved
    # forward: y = add_bias(y, bias): once, and in all ranks
    dbias = sum_over_rows(dy.reshape(-1, dy.shape[-1])) if has_bias else None
    # forward: y = sum_over_ranks(y, communicator): each term has the gradient of the sum
    # forward: y, saved = linear_forward(x, weight, None, transposed, dtype)
    dx, dweight, _ = linear_backward(dy, saved, needs_dweight, dweight, dx)
    return dx, dweight, dbias


class RowLinear(Linear):
    """Some rows of a Linear: x (..., I_r), the inputs of this rank  ->  y (..., O), whole."""

    def __init__(self, weight, bias, transposed: bool, communicator):
        """weight (I_r, O), or (O, I_r) if transposed; bias (O,) or None; both may be Parameters."""
        super().__init__(weight, None, transposed)
        if bias is not None:
            self.bias = as_parameter(bias)
        self._communicator = communicator

    def forward(self, x, with_bias=True, dtype=None):
        """x (..., I_r)  ->  y (..., O) of `dtype`.

        with_bias=False: the bias is left to the caller, who adds its gradient, too.
        """
        bias = self.bias.value if with_bias and hasattr(self, "bias") else None
        y, saved = row_linear_forward(x, self.weight.operand(x), bias, self.transposed, self._communicator, dtype)
        self.save_for_backward(saved)
        return y

    def backward(self, dy, dx=None):
        """dy (..., O)  ->  dx (..., I_r); adds to the gradients of weight and bias.

        dx: an array that the gradient of x is added to; by default a new one. Raises RuntimeError
        without a forward before it.
        """
        dx_rows = None if dx is None else dx.reshape(-1, dx.shape[-1])
        # forward: y, saved = row_linear_forward(x, self.weight.operand(x), bias, ...)
        dx, dweight, dbias = row_linear_backward(
            dy, self.take_saved(), not self.weight.frozen, self.weight.grad_to_add_to(), dx_rows
        )
        if dweight is not None:
            self.weight.add_grad(dweight)
        if dbias is not None:
            self.bias.add_grad(dbias)
        return dx

    def decode(self, x, cache, with_bias=True):
        """The new tokens x (B, t, I_r) -> y (B, t, O); see Layer.decode."""
        y = sum_over_ranks(super().decode(x, cache, with_bias=False), self._communicator)
        if with_bias and hasattr(self, "bias"):
            y += self.bias.peek()
        return y
