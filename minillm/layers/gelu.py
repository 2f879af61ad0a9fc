"""GELU: lets a value through in proportion to how large it is, x times the probability that a
standard normal is below x.

Source: Hendrycks, Gimpel, "Gaussian Error Linear Units" (2016). A bias b may be added first,
x = z + b:

    exact ("none")     y = x Phi(x)        Phi(x) = 1/2 (1 + erf(x / sqrt 2))
    "tanh"             y = x s(x)          s(x) = 1/2 (1 + tanh u),  u = c x (1 + a x^2),  c = sqrt(2/pi), a = 0.044715

GPT-2 was trained with the tanh form, and the two differ by up to 5e-4: weights must be run with the
form they know.

Backward. Both are products of x with a gate g(x), so dy/dx = g(x) + x g'(x):

    exact              g' = phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
    "tanh"             g' = 1/2 (1 - tanh^2 u) u' = 2 s (1 - s) u',     u' = c (1 + 3 a x^2)

where 1 - tanh^2 u = (1 - tanh u)(1 + tanh u) = 4 s (1 - s). The bias takes part in every row, so
db is the sum of dx over the rows.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from minillm.backend.arrays import array_module
from minillm.backend.precision import downcast, dtype_name, upcast
from minillm.kernels import dispatch
from minillm.layers.layer import Layer

C = math.sqrt(2 / math.pi)
A = 0.044715
APPROXIMATIONS = ("tanh", "none")


class GELUSaved(NamedTuple):
    """What backward needs of forward."""

    x: Any  # (..., F), the bias added
    gate: Any  # (..., F), g(x)
    has_bias: bool
    approximate: str


def gelu_forward(x, bias=None, approximate="tanh"):
    """y = gelu(x + bias).  x (..., F), bias (F,) or None  ->  y (..., F), saved

    approximate: "tanh" or "none", the exact form. Raises ValueError for another one.
    """
    xp, like, x = array_module(x), x, upcast(x)
    if bias is not None:
        x = x + bias
    if approximate == "tanh":
        gate = x * x
        gate *= C * A
        gate += C
        gate *= x  # u = c x (1 + a x^2)
        xp.tanh(gate, out=gate)
        gate *= 0.5
        gate += 0.5  # s = (1 + tanh u) / 2
    elif approximate == "none":
        gate = erf(x * math.sqrt(0.5))
        gate *= 0.5
        gate += 0.5  # Phi(x)
    else:
        raise ValueError(f"approximate is {approximate!r}: use one of {', '.join(map(repr, APPROXIMATIONS))}")
    return downcast(x * gate, like), GELUSaved(x, gate, bias is not None, approximate)


def gelu_backward(dy, saved):
    """dy (..., F)  ->  dx (..., F), dbias (F,) or None"""
    x, gate, has_bias, approximate = saved
    xp, like, dy = array_module(dy), dy, upcast(dy)
    if approximate == "tanh":
        # forward: gate = x * x; gate *= C * A; gate += C; gate *= x: this is u
        # forward: xp.tanh(gate, out=gate); gate *= 0.5; gate += 0.5: and this s, so that
        # gate' = 2 s (1 - s) u'
        slope = x * x
        slope *= 3 * A * C * 2
        slope += C * 2  # 2 u' = 2 c (1 + 3 a x^2)
        slope *= gate
        slope *= 1 - gate
    else:
        # forward: gate = erf(x * math.sqrt(0.5)); gate *= 0.5; gate += 0.5: Phi(x), so that
        # gate' = phi(x)
        slope = x * x
        slope *= -0.5
        xp.exp(slope, out=slope)
        slope *= 1 / math.sqrt(2 * math.pi)
    # forward: x * gate: its slope is gate + x gate'
    slope *= x
    slope += gate
    dx = xp.multiply(slope, dy, out=slope)
    # forward: x = x + bias: the same bias for every row
    dx_rows = dx.reshape(-1, dx.shape[-1])
    dbias = xp.ones(len(dx_rows), dtype=dx.dtype) @ dx_rows if has_bias else None  # (N,) @ (N, F)
    return downcast(dx, like), dbias


def gelu_again(saved):
    """What gelu_forward saved  ->  y (..., F) once more"""
    return saved.x * saved.gate


# -------------------------------------------------------------------------------------------------- the error function


def erf(x):
    """The error function, element by element: absolute error below 4e-14 in float64 and 3e-7 in
    float32. NumPy has none.

    erf(x) = x g(x^2), and g is so smooth that a Chebyshev series on [0, limit^2] of a few dozen
    terms is enough; beyond the limit erf is 1 to within the error. The series is summed by
    Clenshaw's recurrence.
    """
    xp = array_module(x)
    limit, coefficients = _erf_series(dtype_name(x.dtype))
    inside = xp.clip(x, -limit, limit)
    t = inside * inside
    t *= 2 / limit**2
    t -= 1  # x^2 mapped to [-1, 1]
    b1, b2 = xp.full_like(t, coefficients[-1]), xp.zeros_like(t)
    for coefficient in coefficients[-2:0:-1]:
        # b_k = c_k + 2 t b_{k+1} - b_{k+2}, written over b_{k+2}
        xp.subtract(2 * t * b1, b2, out=b2)
        b2 += coefficient
        b1, b2 = b2, b1
    value = t * b1
    value -= b2
    value += coefficients[0]
    value *= inside
    return value


@lru_cache
def _erf_series(dtype: str) -> tuple[float, tuple[float, ...]]:
    """(limit, Chebyshev coefficients of erf(x)/x in x^2 on [0, limit^2]) for a dtype."""
    limit, terms = (4.0, 24) if dtype == "float32" else (6.0, 64)

    def ratio(t):
        x = np.sqrt((t + 1) / 2) * limit
        return np.array([math.erf(value) / value for value in x])

    coefficients = np.polynomial.chebyshev.chebinterpolate(ratio, terms - 1)
    return limit, tuple(float(c) for c in coefficients)


# ------------------------------------------------------------------------------------------------------------ the layer


class GELU(Layer):
    """y = gelu(x), x (..., F) -> y (..., F); approximate="tanh" (GPT-2) or "none" (exact)."""

    def __init__(self, approximate: str = "tanh"):
        self.approximate = approximate

    def forward(self, x):
        """x (..., F)  ->  y (..., F). Raises ValueError for an unknown `approximate`."""
        forward, backward = dispatch(x, gelu_forward, gelu_backward)
        y, saved = forward(x, approximate=self.approximate)
        self.save_for_backward((backward, saved))
        return y

    def backward(self, dy):
        """dy (..., F)  ->  dx (..., F). Raises RuntimeError without a forward before it."""
        gelu_backward, saved = self.take_saved()
        # forward: y, saved = forward(x, approximate=self.approximate)
        dx, _ = gelu_backward(dy, saved)
        return dx

    def decode(self, x, cache):
        """The new tokens x (B, t, F) -> y (B, t, F); see Layer.decode."""
        forward = dispatch(x, gelu_forward, gelu_backward)[0] if cache.on_device else gelu_forward
        y, _ = forward(x, approximate=self.approximate)
        return y
