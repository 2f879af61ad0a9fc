"""Several projections of the same token as one matrix product over long rows.

For one token a product is as fast as its weights can be read. A BLAS reads rows of a few thousand numbers at nearly the
memory's speed, and rows of 576 at two thirds of it; and each call costs some microseconds before that speed is reached. So
weights stored as (out, in) with short rows are copied once, side by side, as one (in, O_1 + O_2 + ...): SmolLM2-135M then
writes a tenth more tokens a second. The copy is made when the first single token comes, and pays after some dozens.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module
from minillm.layers.linear import Linear

SHORT_ROW = 1024  # numbers; longer rows are read fast as they are
STRIP = 64  # rows that are transposed at a time: they and their columns fit the processor's cache


class PackedLinear:
    """Called with x (N, I), it returns the outputs of all `linears` side by side, (N, O_1 + O_2 + ...)."""

    def __init__(self, linears: list[Linear]):
        self.linears = linears
        self._weight = self._bias = None
        self._gains = all(
            type(linear) is Linear
            and linear.transposed
            and type(linear.weight.value) is np.ndarray
            and linear.weight.value.shape[1] < SHORT_ROW
            for linear in linears
        )

    def __call__(self, x):
        if len(x) > 1 or not self._gains:
            outputs = [linear.product(x, with_bias=True) for linear in self.linears]
            return outputs[0] if len(outputs) == 1 else array_module(x).concatenate(outputs, axis=-1)
        if self._weight is None:
            self._stack()
        y = x @ self._weight  # (1, I) @ (I, O)
        if self._bias is not None:
            y += self._bias
        return y

    def _stack(self) -> None:
        weights = [linear.weight.value for linear in self.linears]
        outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
        self._weight = np.empty((inputs, outputs), weights[0].dtype)
        column = 0
        for weight in weights:
            for start in range(0, len(weight), STRIP):
                strip = weight[start : start + STRIP]
                self._weight[:, column : column + len(strip)] = strip.T
                column += len(strip)
        biases = [linear.bias.value for linear in self.linears if hasattr(linear, "bias")]
        self._bias = np.concatenate(biases) if biases else None
