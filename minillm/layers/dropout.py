"""Dropout: in training, sets each value to zero with probability p, so that no value can rely on
another being there.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"
(2014). What is kept is scaled by 1 / (1 - p), so that the expected value stays the same and nothing
needs to be done at inference:

    y_n = x_n m_n / (1 - p)        m_n = 1 with probability 1 - p, else 0

Backward: y is linear in x with the factor m_n / (1 - p), so dx_n = dy_n m_n / (1 - p), with the
*same* mask.

The mask comes from an explicit key (see minillm.backend.stream): element n is kept if the n-th
32-bit word of the stream is at least p * 2^32. The same key gives the same mask on the CPU and in a
GPU kernel.
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.arrays import device_of, to_device
from minillm.backend.precision import downcast, upcast
from minillm.backend.random_streams import stream
from minillm.kernels import dispatch
from minillm.layers.layer import Layer


def dropout_forward(x, p, rng_key, batch_offset=0):
    """x (...), p in [0, 1)  ->  y (...), saved

    rng_key: a tuple of integers and strings, the key of the mask. batch_offset: which row of the
    batch x[0] is, so that a part of a batch gets its part of the mask.
    """
    factor = dropout_factor(x.shape, p, rng_key, upcast(x), batch_offset)
    return downcast(upcast(x) * factor, x), factor


def dropout_backward(dy, saved):
    """dy (...)  ->  dx (...)"""
    factor = saved
    # forward: upcast(x) * factor
    return downcast(upcast(dy) * factor, dy)


def dropout_factor(shape, p, rng_key, like, batch_offset=0, heads=None):
    """m / (1 - p): what each element is multiplied by. An array of the given shape, of the dtype
    and device of `like`. rng_key and batch_offset as in `dropout_forward`.

    heads: (first, all), where the second axis has the attention heads from `first` on of so many,
    and they are to get their part of the mask; None where it is whole.
    """
    words = _words(shape, rng_key, batch_offset, *(heads or (0, shape[1] if shape[1:] else 1)))
    kept = (words >= round(p * 2**32)).reshape(shape)
    return to_device(kept.astype(like.dtype) * like.dtype.type(1 / (1 - p)), device_of(like))


def _words(shape, rng_key, row, first, all_heads):
    """The words of rows from `row` on, and of heads from `first` on of so many, in C order."""
    if shape[1:] and shape[1] < all_heads:
        one = math.prod(shape[2:])  # words of one head
        starts = [((row + b) * all_heads + first) * one for b in range(shape[0])]
        return np.concatenate([stream(*rng_key).words32(shape[1] * one, start) for start in starts])
    return stream(*rng_key).words32(math.prod(shape), start=row * math.prod(shape[1:]))


class Dropout(Layer):
    """Drops in training mode with probability p; does nothing in evaluation mode or for p = 0."""

    batch_offset = 0  # where the rows that this layer sees begin in the batch (data_parallel.py)

    def __init__(self, p: float):
        self.p = p

    def forward(self, x, rng_key=None):
        """x (...)  ->  y (...). rng_key: (seed, step), needed in training mode if p is not 0.

        Raises ValueError without it.
        """
        if not self.training or self.p == 0:
            self.save_for_backward(None)
            return x
        forward, backward = dispatch(x, dropout_forward, dropout_backward)
        y, saved = forward(x, self.p, self.layer_key(rng_key), self.batch_offset)
        self.save_for_backward((backward, saved))
        return y

    def backward(self, dy):
        """dy (...)  ->  dx (...), with the mask of forward.

        Raises RuntimeError without a forward before it.
        """
        taken = self.take_saved()
        if taken is None:
            # forward: return x
            return dy
        dropout_backward, saved = taken
        # forward: y, saved = forward(x, self.p, self.layer_key(rng_key), self.batch_offset)
        return dropout_backward(dy, saved)

    def decode(self, x, cache):
        """x itself: nothing is dropped in generation; see Layer.decode."""
        return x

    def settings(self, rng_key) -> dict:
        """Arguments of an operation that drops its own values, such as attention_forward; none
        where nothing is dropped.
        """
        if not self.training or self.p == 0:
            return {}
        return dict(dropout=self.p, rng_key=self.layer_key(rng_key), batch_offset=self.batch_offset)

    def layer_key(self, rng_key):
        """The key of this layer's own mask: the caller's key and the layer's name."""
        if rng_key is None:
            where = f"Dropout({self.name})" if self.name else "Dropout"
            raise ValueError(
                f"{where} with p={self.p} needs an rng_key in training mode: pass rng_key=(seed, step), "
                "a new one for each step, or call eval() first"
            )
        return (*rng_key, self.name)


class HeadsDropout(Dropout):
    """The dropout of attention probabilities of some heads, by the mask that all heads together
    have: for ranks that share the heads (models/tensor_parallel.py).
    """

    def __init__(self, p: float, first: int, all_heads: int):
        """The heads from `first` on, of so many."""
        super().__init__(p)
        self.first, self.all_heads = first, all_heads

    def settings(self, rng_key) -> dict:
        """As Dropout.settings."""
        found = super().settings(rng_key)
        return found and found | {"heads": (self.first, self.all_heads)}
