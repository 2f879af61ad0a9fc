"""LoRA: fine-tuning by a small addition to a large weight, which is itself not changed.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1. A
linear layer of I inputs and O outputs gets two thin matrices, A (r, I) and B (O, r), r far below I
and O:

    y = x W + b + s (x A^T) B^T          s = alpha / r

A starts random and B at zero, so that training starts from the model as it was. Only A and B learn:
r (I + O) numbers in place of I O, with gradients and moments for no more than these.

Backward of the addition, with h = x A^T (N, r):

    dB_or = s sum_n dy_no h_nr                dB = s dy^T h
    dh_nr = s sum_o dy_no B_or                dh = s dy B
    dA_ri = sum_n dh_nr x_ni                  dA = dh^T x
    dx_ni = sum_r dh_nr A_ri                  dx = dh A, added to the gradient through W

Merged, it costs nothing: W + s (B A)^T is a weight like any other (W stored as (in, out); its
transpose as (out, in)).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minillm.backend.matmul import matmul
from minillm.backend.precision import gradient_dtype
from minillm.layers.layer import Parameter
from minillm.layers.linear import Linear


class LoRASaved(NamedTuple):
    """What backward needs of forward."""

    x: Any  # (..., I)
    a: Any  # (r, I)
    b: Any  # (O, r)
    h: Any  # (N, r), scaled
    scale: float


def lora_forward(x, a, b, scale):
    """x (..., I), a (r, I), b (O, r)  ->  what is added to the layer's output (..., O), saved

    scale: s, the number that x A^T B^T is multiplied by.
    """
    rows = x.reshape(-1, x.shape[-1])  # (N, I)
    h = matmul(rows, a.T)  # (N, I) @ (I, r)
    h *= scale
    return matmul(h, b.T).reshape(*x.shape[:-1], len(b)), LoRASaved(x, a, b, h, scale)  # (N, r) @ (r, O)


def lora_backward(dy, saved):
    """dy (..., O)  ->  dx (..., I), da (r, I), db (O, r)"""
    x, a, b, h, scale = saved
    rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # forward: matmul(h, b.T): h is scaled already
    db = matmul(dy_rows.T, h, dtype=gradient_dtype(b))  # (O, N) @ (N, r)
    dh = matmul(dy_rows, b)  # (N, O) @ (O, r)
    # forward: h *= scale
    dh *= scale
    # forward: h = matmul(rows, a.T)
    da = matmul(dh.T, rows, dtype=gradient_dtype(a))  # (r, N) @ (N, I)
    return matmul(dh, a).reshape(x.shape), da, db  # (N, r) @ (r, I)


class LoRALinear(Linear):
    """A Linear whose own parameters are frozen, with two matrices that learn: lora_A (r, I) and
    lora_B (O, r)."""

    def __init__(self, base: Linear, a, b, alpha: float):
        """base: the layer whose weight and bias are shared, and frozen from now on. a (r, I) and b
        (O, r), arrays or Parameters, become lora_A and lora_B; alpha: what is added is multiplied
        by alpha / r.
        """
        bias = base.bias if hasattr(base, "bias") else None
        super().__init__(base.weight, None, base.transposed)
        if bias is not None:
            self.bias = bias
        for parameter in (base.weight, bias):
            if parameter is not None:
                parameter.frozen = True
        if not isinstance(a, Parameter):
            a, b = Parameter(a, outputs_axis=0), Parameter(b, outputs_axis=0)
        self.lora_A, self.lora_B = a, b
        self.scale = alpha / len(a.peek())

    def forward(self, x, with_bias=True):
        """x (..., I)  ->  y (..., O). with_bias=False: without the bias of the base."""
        y = super().forward(x, with_bias)
        of_base = self._saved
        added, saved = lora_forward(x, self.lora_A.operand(x), self.lora_B.operand(x), self.scale)
        y += added
        self.save_for_backward((of_base, saved))
        return y

    def backward(self, dy, dx=None):
        """dy (..., O)  ->  dx (..., I); adds to the gradients of lora_A and lora_B.

        dx: an array that the gradient of x is added to; by default a new one. Raises RuntimeError
        without a forward before it.
        """
        of_base, saved = self.take_saved()
        self._saved = of_base  # for the backward of Linear
        # forward: y = super().forward(x, with_bias)
        dx = super().backward(dy, dx)
        # forward: added, saved = lora_forward(x, self.lora_A.operand(x), ...)
        # forward: y += added: the same x as above
        dx_added, da, db = lora_backward(dy, saved)
        self.lora_A.add_grad(da)
        self.lora_B.add_grad(db)
        dx += dx_added
        return dx

    def decode(self, x, cache, with_bias=True):
        """The new tokens x (B, t, I) -> y (B, t, O); see Layer.decode."""
        y = super().decode(x, cache, with_bias)
        y += lora_forward(x, self.lora_A.operand(x), self.lora_B.operand(x), self.scale)[0]
        return y

    def merged_weight(self):
        """The weight of a plain Linear that computes the same, in the orientation of this one's."""
        added = (self.lora_B.value @ self.lora_A.value) * self.weight.value.dtype.type(self.scale)  # (O, r) @ (r, I)
        return self.weight.value + (added if self.transposed else added.T)
