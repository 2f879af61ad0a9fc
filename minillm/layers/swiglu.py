"""SwiGLU: an MLP in which one projection of a token decides how much of another one passes.

Source: Shazeer, "GLU Variants Improve Transformer" (2020), equation 6. With two projections of the
same token, g = x W_gate^T and u = x W_up^T, both of width F:

    s_n = 1 / (1 + exp(-g_n))        h_n = g_n s_n u_n        y = h W_down^T

g s(g), the "SiLU" or "swish", is close to g where g is large and to 0 where it is very negative.

Backward. h is a product, so each factor's gradient is dh times the other factor; s' = s (1 - s):

    du_n = dh_n g_n s_n
    dg_n = dh_n u_n d(g s)/dg = dh_n u_n (s_n + g_n s_n (1 - s_n))
         = dh_n u_n s_n (1 + g_n (1 - s_n))

x is read by both projections, so its two gradients add up: dx = dg W_gate + du W_up.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module
from minillm.backend.precision import downcast, upcast
from minillm.backend.sharing import by_rows
from minillm.kernels import dispatch
from minillm.layers.decoding import decoded_onto
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear, backward_onto, projected
from minillm.layers.made_again import forget_input, is_own, remember_input
from minillm.layers.packed_linear import decoded_each, packed_linear


def swiglu_forward(gate, up):
    """gate and up (..., F)  ->  h (..., F), saved"""
    xp, like, gate, up = array_module(gate), gate, upcast(gate), upcast(up)
    s = xp.multiply(gate, gate.dtype.type(0.5))
    xp.tanh(s, out=s)
    s += 1
    s *= gate.dtype.type(0.5)  # 1 / (1 + exp(-g)) = (1 + tanh(g/2)) / 2, which cannot overflow
    h = gate * s
    h *= up
    return downcast(h, like), (gate, up, s)


def swiglu_backward(dh, saved):
    """dh (..., F)  ->  dgate and dup (..., F)"""
    gate, up, s = saved
    like, dh = dh, upcast(dh)
    # forward: h = gate * s; h *= up
    dup = gate * s
    dup *= dh
    # forward: s = xp.multiply(gate, gate.dtype.type(0.5)); xp.tanh(s, out=s); s += 1
    # forward: s *= gate.dtype.type(0.5): this is sigmoid(gate)
    # forward: h = gate * s: so d(gate * s) = s * (1 + gate * (1 - s))
    dgate = 1 - s
    dgate *= gate
    dgate += 1
    dgate *= s
    dgate *= up
    dgate *= dh
    return downcast(dgate, like), downcast(dup, like)


def swiglu_again(saved):
    """What swiglu_forward saved  ->  h (..., F) once more"""
    gate, up, s = saved
    silu = gate * s
    silu *= up
    return silu


SWIGLU = swiglu_forward  # whose result `swiglu_again` makes again, also where another function gets its name


def swiglu_by_tanh(gate, up):
    """h of swiglu_forward as g/2 (1 + tanh(g/2)) u, with nothing saved.

    Two arrays of the size of h in place of three: 10 us in place of 12 for one row, F = 1536.
    """
    t = gate * gate.dtype.type(0.5)
    h = t * up
    array_module(t).tanh(t, out=t)
    t += 1
    h *= t
    return h


class SwiGLU(Layer):
    """x (..., C) -> y (..., C); the weights of the projections are stored as (out, in)."""

    def __init__(self, gate_proj: Linear, up_proj: Linear, down_proj: Linear):
        """gate_proj and up_proj: C -> F; down_proj: F -> C."""
        self.gate_proj = gate_proj
        self.up_proj = up_proj
        self.down_proj = down_proj

    def forward(self, x, with_bias=True):
        """x (..., C)  ->  y (..., C)

        with_bias=False: the bias of `projection` is left to the caller, who adds its gradient, too.
        """
        gate, up = self.gate_proj.forward(x), self.up_proj.forward(x)  # (..., C) @ (C, F), twice
        forward, backward = dispatch(gate, swiglu_forward, swiglu_backward)
        h, saved = forward(gate, up)
        self.save_for_backward((backward, saved))
        y = projected(self.down_proj, h, with_bias)  # (..., F) @ (F, C)
        if is_own(forward, SWIGLU):
            forget_input(self.down_proj, h)
        return y

    @property
    def first_products(self) -> tuple[Linear, ...]:
        """The layers that read x."""
        return self.gate_proj, self.up_proj

    @property
    def projection(self) -> Linear:
        """The layer that computes the result."""
        return self.down_proj

    def backward(self, dy):
        """dy (..., C)  ->  dx (..., C); adds to the gradients of the projections.

        Raises RuntimeError without a forward before it.
        """
        swiglu_backward, saved = self.take_saved()
        # forward: y = projected(self.down_proj, h, with_bias); h, saved = forward(gate, up)
        remember_input(self.down_proj, swiglu_again, saved)
        dgate, dup = swiglu_backward(self.down_proj.backward(dy), saved)
        # forward: gate, up = self.gate_proj.forward(x), self.up_proj.forward(x): the same x in both
        dx = self.gate_proj.backward(dgate)
        return backward_onto(self.up_proj, dup, dx)

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> y (B, t, C); see Layer.decode."""
        return self.down_proj.decode(self._decoded_inside(x, cache), cache)  # (..., F) @ (F, C)

    def decode_onto(self, residual, x, cache):
        """residual + decode(x, cache); see Layer.decode_onto."""
        return decoded_onto(residual, self._decoded_inside(x, cache), cache, self.down_proj)

    def _decoded_inside(self, x, cache):
        if cache.on_device:
            gate, up = decoded_each(x, (self.gate_proj, self.up_proj), cache)
            return dispatch(gate, swiglu_forward, swiglu_backward)[0](gate, up)[0]
        # twice (..., C) @ (C, F), or (1, 1, C) @ (C, 2F)
        gate_up = packed_linear(x, (self.gate_proj, self.up_proj), cache)
        F = gate_up.shape[-1] // 2
        return by_rows(swiglu_by_tanh, gate_up[..., :F], gate_up[..., F:])
