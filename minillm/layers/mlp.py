"""MLP: two linear layers with a GELU between them, applied to each token independently.

    h = gelu(x W_fc + b_fc)        y = h W_proj + b_proj                  x (..., C), h (..., F), usually F = 4C

Backward calls the backward of each part, in reverse order. The first bias is added by the GELU,
which visits every element anyway. h is not kept: backward makes it again (made_again.py).
"""

from __future__ import annotations

from minillm.backend.sharing import by_rows
from minillm.kernels import dispatch
from minillm.layers.decoding import decoded_onto
from minillm.layers.gelu import gelu_again, gelu_backward, gelu_forward
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear, projected
from minillm.layers.made_again import forget_input, is_own, remember_input

GELU = gelu_forward  # whose result `gelu_again` makes again, also where another function has its name here


class MLP(Layer):
    """x (..., C) -> y (..., C); approximate="tanh" (GPT-2) or "none" (exact GELU)."""

    def __init__(self, c_fc: Linear, c_proj: Linear, approximate: str = "tanh"):
        """c_fc: C -> F; c_proj: F -> C; approximate: see gelu.py."""
        self.c_fc = c_fc
        self.c_proj = c_proj
        self.approximate = approximate

    def forward(self, x, with_bias=True):
        """x (..., C)  ->  y (..., C)

        with_bias=False: the bias of `projection` is left to the caller, who adds its gradient, too.
        """
        bias = self.c_fc.bias.value if hasattr(self.c_fc, "bias") else None
        h = self.c_fc.forward(x, with_bias=False)  # (..., C) @ (C, F)
        forward, backward = dispatch(h, gelu_forward, gelu_backward)
        h, saved_gelu = forward(h, bias, self.approximate)
        self.save_for_backward((backward, saved_gelu))
        y = projected(self.c_proj, h, with_bias)  # (..., F) @ (F, C)
        if is_own(forward, GELU):
            forget_input(self.c_proj, h)
        return y

    @property
    def first_products(self) -> tuple[Linear, ...]:
        """The layers that read x."""
        return (self.c_fc,)

    @property
    def projection(self) -> Linear:
        """The layer that computes the result."""
        return self.c_proj

    def backward(self, dy):
        """dy (..., C)  ->  dx (..., C); adds to the gradients of both layers.

        Raises RuntimeError without a forward before it.
        """
        gelu_backward, saved_gelu = self.take_saved()
        # forward: y = projected(self.c_proj, h, with_bias)
        remember_input(self.c_proj, gelu_again, saved_gelu)
        dh = self.c_proj.backward(dy)
        # forward: h, saved_gelu = forward(h, bias, self.approximate): gelu(z + bias)
        dz, dbias = gelu_backward(dh, saved_gelu)
        if dbias is not None:
            self.c_fc.bias.add_grad(dbias)
        # forward: h = self.c_fc.forward(x, with_bias=False): z = x @ weight
        return self.c_fc.backward(dz)

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> y (B, t, C); see Layer.decode."""
        return self.c_proj.decode(self._decoded_inside(x, cache), cache)  # (..., F) @ (F, C)

    def decode_onto(self, residual, x, cache):
        """residual + decode(x, cache); see Layer.decode_onto."""
        return decoded_onto(residual, self._decoded_inside(x, cache), cache, self.c_proj)

    def _decoded_inside(self, x, cache):
        bias = self.c_fc.bias.peek() if hasattr(self.c_fc, "bias") else None
        h = self.c_fc.decode(x, cache, with_bias=False)  # (..., C) @ (C, F)
        if cache.on_device:
            return dispatch(h, gelu_forward, gelu_backward)[0](h, bias, self.approximate)[0]
        return by_rows(lambda rows: gelu_forward(rows, bias, self.approximate)[0], h, out=h)
