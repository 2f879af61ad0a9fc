r"""LoRA of a layer that ranks share: one of its two matrices is cut, the other is whole.

lora.py derives y = x W + b + s (x A^T) B^T, with A (r, I) and B (O, r). In letters of
column_linear.py and row_linear.py:

    column-parallel: B is cut along its outputs, as W is; A is whole

        y_r = x W_r + b_r + s (x A^T) B_r^T                 nothing is exchanged
        dA  = s (sum_r dy_r B_r)^T x = sum_r (s (dy_r B_r)^T x)

    row-parallel: A is cut along its inputs, as W is; B is whole

        y   = sum_r (x_r W_r + s (x_r A_r^T) B^T) + b       one exchange for both terms
        dB  = s dy^T (sum_r x_r A_r^T) = sum_r (s dy^T (x_r A_r^T))

x A^T is whole in the first, and read by the parts of B in all ranks: f. In the second it is the sum
of all ranks' terms: g, moved behind the product with B, which is linear. So the gradient of the
matrix that is whole is a sum over ranks, of r I or O r numbers, and that is exchanged in backward.
The other one's gradient needs the numbers of its own rank alone.
"""

from __future__ import annotations

from minillm.layers.bias import add_bias
from minillm.layers.column_linear import check_readers
from minillm.layers.linear import Linear, linear_backward, linear_forward
from minillm.layers.lora import LoRALinear, lora_backward, lora_forward
from minillm.layers.ranks import sum_over_ranks


def column_lora_forward(x, a, b, scale):
    """x (..., I), a (r, I), whole, b (O_r, r)  ->  what is added to the outputs of this rank (...,
    O_r), saved
    """
    return lora_forward(x, a, b, scale)


def column_lora_backward(dy, saved, communicator):
    """dy (..., O_r)  ->  dx (..., I), da (r, I), db (O_r, r); dx are terms, da is whole"""
    # forward: lora_forward(x, a, b, scale)
    dx, da, db = lora_backward(dy, saved)
    # forward: lora_forward(x, a, b, scale): one a for the outputs of all ranks
    da = sum_over_ranks(da, communicator)
    return dx, da, db


def row_lora_forward(x, a, b, scale):
    """x (..., I_r), a (r, I_r), b (O, r), whole  ->  a term of what is added to the output (...,
    O), saved
    """
    return lora_forward(x, a, b, scale)


def row_lora_backward(dy, saved, communicator):
    """dy (..., O)  ->  dx (..., I_r), da (r, I_r), db (O, r); db is whole"""
    # forward: lora_forward(x, a, b, scale)
    dx, da, db = lora_backward(dy, saved)
    # forward: lora_forward(x, a, b, scale): one b for the terms of all ranks
    db = sum_over_ranks(db, communicator)
    return dx, da, db


class ColumnLoRALinear(LoRALinear):
    """x (..., I)  ->  y (..., O_r): as ColumnLinear, with lora_A, which is whole, and the rows of
    lora_B for the outputs of this rank.
    """

    def __init__(self, base: Linear, a, b, scale: float, communicator, reader: int = 1, readers: int = 1):
        """base: a Linear with the columns of this rank. scale: s. reader, readers: as in
        ColumnLinear.
        """
        super().__init__(base, a, b, 1.0)
        self.scale = scale
        self._communicator = communicator
        self.reader, self.readers = reader, readers

    def forward(self, x, with_bias=True):
        """x (..., I)  ->  y (..., O_r). with_bias=False: without the bias of the base."""
        bias = self.bias.value if with_bias and hasattr(self, "bias") else None
        y, of_base = linear_forward(x, self.weight.operand(x), bias, self.transposed)
        added, saved = column_lora_forward(x, self.lora_A.operand(x), self.lora_B.operand(x), self.scale)
        y += added
        self.save_for_backward((of_base, saved))
        return y

    def backward(self, dy, dx=None):
        """dy (..., O_r)  ->  dx (..., I), whole after the last reader of x; adds to the gradients
        of lora_A and lora_B.

        dx: as in ColumnLinear.backward. Raises RuntimeError as it does.
        """
        check_readers(self, dx)
        of_base, saved = self.take_saved()
        dx_rows = None if dx is None else dx.reshape(-1, dx.shape[-1])
        # forward: y, of_base = linear_forward(x, self.weight.operand(x), bias, self.transposed)
        dx, _, _ = linear_backward(dy, of_base, needs_dweight=False, dx=dx_rows)
        # forward: added, saved = column_lora_forward(x, ...); y += added: the same x as above
        dx_added, da, db = column_lora_backward(dy, saved, self._communicator)
        self.lora_A.add_grad(da)
        self.lora_B.add_grad(db)
        dx += dx_added
        # forward: y, of_base = linear_forward(x, ...): each rank reads the same x
        return sum_over_ranks(dx, self._communicator) if self.reader == self.readers else dx

    decode = LoRALinear.decode


class RowLoRALinear(LoRALinear):
    """x (..., I_r)  ->  y (..., O): as RowLinear, with lora_B, which is whole, and the columns of
    lora_A for the inputs of this rank.
    """

    def __init__(self, base: Linear, a, b, scale: float, communicator):
        """base: a Linear with the rows of this rank, and the bias, whole. scale: s."""
        super().__init__(base, a, b, 1.0)
        self.scale = scale
        self._communicator = communicator

    def forward(self, x, with_bias=True):
        """x (..., I_r)  ->  y (..., O). with_bias=False: without the bias of the base."""
        y, of_base = linear_forward(x, self.weight.operand(x), None, self.transposed)
        added, saved = row_lora_forward(x, self.lora_A.operand(x), self.lora_B.operand(x), self.scale)
        y += added
        y = sum_over_ranks(y, self._communicator)
        if with_bias and hasattr(self, "bias"):
            y = add_bias(y, self.bias.value)
        self.save_for_backward((of_base, saved))
        return y

    def backward(self, dy, dx=None):
        """dy (..., O)  ->  dx (..., I_r); adds to the gradients of lora_A and lora_B.

        dx: an array that the gradient of x is added to; by default a new one. Raises RuntimeError
        without a forward before it.
        """
        of_base, saved = self.take_saved()
        dx_rows = None if dx is None else dx.reshape(-1, dx.shape[-1])
        # forward: y = sum_over_ranks(y, self._communicator): each term has the gradient of the sum
        # forward: y, of_base = linear_forward(x, self.weight.operand(x), None, self.transposed)
        dx, _, _ = linear_backward(dy, of_base, needs_dweight=False, dx=dx_rows)
        # forward: added, saved = row_lora_forward(x, ...); y += added: the same x as above
        dx_added, da, db = row_lora_backward(dy, saved, self._communicator)
        self.lora_A.add_grad(da)
        self.lora_B.add_grad(db)
        dx += dx_added
        return dx

    def decode(self, x, cache, with_bias=True):
        """The new tokens x (B, t, I_r) -> y (B, t, O); see Layer.decode."""
        y = sum_over_ranks(super().decode(x, cache, with_bias=False), self._communicator)
        if with_bias and hasattr(self, "bias"):
            y += self.bias.peek()
        return y
