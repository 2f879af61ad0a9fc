"""Inputs of linear layers that are not kept, because backward makes them again.

A Linear keeps its input x, for dw = x^T dy. Where x is the result of an operation that keeps enough
to make it again in one or two passes over memory, x is forgotten after forward:

    norm      y = n w + b         the norm keeps n; who reads y (q, k and v; the MLP) forgets it
    MLP       h = z g(z)          GELU keeps z and its gate g; the last product forgets h
    SwiGLU    h = g s(g) u        it keeps all three factors; the last product forgets h

Source: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022),
section 5, "selective activation recomputation": what takes much memory and little time is computed
again. A block of a GPT-2 keeps 14 arrays of the residual stream's size in place of 20. The same
operations on the same numbers make the same bits: no gradient changes.

It is done in host memory alone, and where nothing was exchanged: for a Linear that kept the very
array it was handed, and for operations and norms of this package as they are. Any other layer keeps
what it keeps.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np

from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm, layer_norm_again, layer_norm_forward
from minillm.layers.linear import LinearSaved
from minillm.layers.rms_norm import RMSNorm, rms_norm_again, rms_norm_forward

# A norm's class -> its forward, the function that computes it, and the one that makes y again.
NORMS = {
    LayerNorm: (LayerNorm.forward, layer_norm_forward, layer_norm_again),
    RMSNorm: (RMSNorm.forward, rms_norm_forward, rms_norm_again),
}


class Forgotten(NamedTuple):
    """In the place of an input, until it is made again."""

    shape: tuple[int, ...]
    dtype: np.dtype


def forget_input(layer: Layer, x) -> None:
    """Let `layer`, whose forward has just had x (..., I), forget it, if it can.

    `remember_input` has to come before its backward.
    """
    saved = _saved_by(layer)
    if saved is not None and saved.x is x and type(x) is np.ndarray:
        layer.save_for_backward(LinearSaved(Forgotten(x.shape, x.dtype), *saved[1:]))


def remember_input(layer: Layer, again, saved) -> None:
    """Give `layer` the input again(saved) if it has forgotten it."""
    if _has_forgotten(layer):
        _give(layer, again(saved))


def forget_output(norm: Layer, y, reader: Layer) -> None:
    """Let the linear layers of `reader` that have read y (..., C), the result of `norm`, forget
    it.
    """
    if _has_own_forward(norm):
        for linear in getattr(reader, "first_products", ()):
            forget_input(linear, y)


def remember_output(norm: Layer, reader: Layer) -> None:
    """Make the result of `norm` again for the layers of `reader` that have forgotten it."""
    forgetful = [linear for linear in getattr(reader, "first_products", ()) if _has_forgotten(linear)]
    if forgetful:
        _, _, again = NORMS[type(norm)]
        _, saved = norm._saved[0]
        y = again(saved, norm.bias.peek() if hasattr(norm, "bias") else None)
        for linear in forgetful:
            _give(linear, y)


def _has_own_forward(norm: Layer) -> bool:
    """Whether `norm` computes what its class in this package does, also where it is watched."""
    method, function, _ = NORMS.get(type(norm), (None, None, None))
    own = vars(norm).get("forward")
    if type(norm).forward is not method or own is not None and not _only_looks_on(own):
        return False
    return is_own(getattr(sys.modules[function.__module__], function.__name__), function)


def is_own(function, original) -> bool:
    """Whether `function` is `original`, a function of this package, also where it is watched."""
    return function is original or _only_looks_on(function) and function.__wrapped__ is original


def _only_looks_on(function) -> bool:
    """Whether a function that replaced another one gives the same result."""
    return getattr(function, "only_takes_time", False) or getattr(function, "only_watches", False)


def _has_forgotten(layer: Layer) -> bool:
    saved = _saved_by(layer)
    return saved is not None and isinstance(saved.x, Forgotten)


def _give(layer: Layer, x) -> None:
    saved = _saved_by(layer)
    shape, dtype = saved.x
    layer.save_for_backward(saved._replace(x=x.reshape(shape).astype(dtype, copy=False)))


def _saved_by(layer: Layer) -> LinearSaved | None:
    """What a plain Linear has saved; None of any other layer, and where nothing is saved."""
    saved = layer._saved[0] if layer._saved else None
    return saved if isinstance(saved, LinearSaved) else None
