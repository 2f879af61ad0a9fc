"""Rotary embedding: tells attention where a token stands by turning its query and key by an angle that grows with t.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021), equation 34. A head of width
D is cut into D/2 pairs; at position t pair i is turned in its plane by the angle t theta_i, theta_i = base^(-2i/D):

    y_a = x_a cos(t theta_i) - x_b sin(t theta_i)
    y_b = x_b cos(t theta_i) + x_a sin(t theta_i)

The product of a query at t and a key at u then depends on t - u alone: turning both changes no angle between them.
Which channels (a, b) make pair i is a convention that weights are trained with:

    halves        (i, i + D/2)        Hugging Face
    interleaved   (2i, 2i + 1)        Meta's own files, the paper

Backward. A rotation R is linear, and its transpose is the rotation by the opposite angle:

    dx = R^T dy:        dx_a = dy_a cos + dy_b sin        dx_b = dy_b cos - dy_a sin
"""

from __future__ import annotations

import numpy as np

from minillm.backend import array_module


def rotary_tables(time: int, width: int, base: float = 10000.0, dtype="float32"):
    """cos and sin of t theta_i for the positions 0 ... time - 1 and a head of `width`: two NumPy arrays (T, D/2)."""
    theta = base ** (-2 * np.arange(width // 2) / width)  # (D/2,)
    angle = np.arange(time)[:, None] * theta  # (T, D/2), float64: far positions keep their digits
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def rotary_forward(x, cos, sin, interleaved=False):
    """x (B, H, T, D), cos and sin (T, D/2)  ->  y (B, H, T, D), saved"""
    return _turned(x, cos, sin, interleaved), (cos, sin, interleaved)


def rotary_backward(dy, saved):
    """dy (B, H, T, D)  ->  dx (B, H, T, D); the tables have no gradient."""
    cos, sin, interleaved = saved
    # forward: y = x turned by (cos, sin)
    return _turned(dy, cos, -sin, interleaved)


def _turned(x, cos, sin, interleaved):
    y = array_module(x).empty_like(x)
    half = x.shape[-1] // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(half), slice(half, None))
    a, b = x[..., first], x[..., second]  # (B, H, T, D/2)
    y[..., first] = a * cos - b * sin
    y[..., second] = b * cos + a * sin
    return y
