"""The key/value cache: what attention needs to remember of the tokens that were read, so that each is read once.

A new token's query looks at the keys and values of all tokens before it. These do not depend on what comes after them
(attention is causal), so they are kept, and a step computes those of the new token only. Without a cache, writing token T
costs a pass over T tokens; with it, a pass over one.

Rows of a batch may be of unequal length: shorter ones are padded at their left, so that every row's last token stands in
the last column. A row's positions count from its first real token, and no token looks at the padding.
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.arrays import array_module, device_of, to_device

FIRST_CAPACITY = 128  # columns
QUERY_BLOCK = 128  # queries whose scores exist at a time


class KeyValueCache:
    """Keys and values (B, H_kv, T, D) of every layer for the T = `length` columns that were read.

    padding (B,): how many columns at the start of each row hold no token; None if there are none. `like`: an array of the
    dtype and on the device that the cache is to have. It grows as it is filled.
    """

    def __init__(self, n_layer: int, batch: int, n_kv_head: int, head_dim: int, like, padding=None):
        self.length = 0
        self.padding = None if padding is None or not np.any(padding) else to_device(padding, device_of(like))
        self._shape = (batch, n_kv_head, 0, head_dim)
        self._like = like
        self._keys = [self._empty(0) for _ in range(n_layer)]
        self._values = [self._empty(0) for _ in range(n_layer)]

    def reserve(self, count: int) -> None:
        """Make room for `count` more columns in every layer."""
        needed = self.length + count
        capacity = self._keys[0].shape[2] if self._keys else needed
        if needed <= capacity:
            return
        capacity = max(FIRST_CAPACITY, needed + needed // 2)
        for arrays in (self._keys, self._values):
            for layer, old in enumerate(arrays):
                arrays[layer] = self._empty(capacity)
                arrays[layer][:, :, : self.length] = old[:, :, : self.length]

    def put(self, layer: int, k, v):
        """Append k and v (B, H_kv, t, D) to a layer; returns all keys and values so far, (B, H_kv, T + t, D), as views.

        `advance` makes the columns count, after all layers have them.
        """
        stop = self.length + k.shape[2]
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, self.length : stop] = k
        values[:, :, self.length : stop] = v
        return keys[:, :, :stop], values[:, :, :stop]

    def advance(self, count: int) -> None:
        """`count` columns were put into every layer, or, if it is negative, the last ones count no more."""
        self.length += count

    def select(self, rows, start: int | None = None) -> None:
        """Keep these rows, in this order, possibly several times. rows: an integer array on the cache's device.

        start: where as many rows are kept as there are, the first column in which the new rows differ from the old ones.
        Beams of one prompt share most of their columns: only the others are copied.
        """
        if self.padding is not None:
            self.padding = self.padding[rows]
        if start is None:
            self._shape = (len(rows), *self._shape[1:])
        for arrays in (self._keys, self._values):
            for layer, old in enumerate(arrays):
                if start is None:
                    arrays[layer] = self._empty(old.shape[2])
                    arrays[layer][:, :, : self.length] = old[:, :, : self.length][rows]
                else:
                    old[:, :, start : self.length] = old[:, :, start : self.length][rows]

    def positions(self, count: int):
        """The positions of the next `count` columns: (t,), or (B, t) where rows are padded."""
        xp = array_module(self._like)
        columns = xp.arange(self.length, self.length + count)
        return columns if self.padding is None else xp.maximum(columns - self.padding[:, None], 0)

    def _empty(self, capacity: int):
        batch, heads, _, width = self._shape
        return array_module(self._like).empty_like(self._like, shape=(batch, heads, capacity, width), order="C")


def cached_attention(q, k, v, padding=None):
    """Causal attention of the last t tokens, q (B, H, t, D), on all T tokens, k and v (B, H_kv, T, D)  ->  y (B, H, t, D)

    padding (B,): columns at the start of a row that nothing looks at, except they at themselves: they need something to
    look at, and nobody reads what they find.
    """
    xp = array_module(q)
    batch, heads, time, width = q.shape
    kv_heads, total = k.shape[1], k.shape[2]
    group = heads // kv_heads
    q = q * q.dtype.type(1 / math.sqrt(width))
    if time == 1 and padding is None:  # a step of generation, in as few operations as possible
        s = q.reshape(batch, kv_heads, group, width) @ k.swapaxes(2, 3)  # (B, H_kv, g, D) @ (B, H_kv, D, T)
        return (_softmax(s, xp) @ v).reshape(batch, heads, 1, width)
    y = xp.empty_like(q)
    for start in range(0, time, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, time)
        seen = total - time + stop  # the block's last query sees no key after itself
        rows = q[:, :, start:stop].reshape(batch, kv_heads, group * (stop - start), width)
        s = rows @ k[:, :, :seen].swapaxes(2, 3)  # (B, H_kv, g t, D) @ (B, H_kv, D, T)
        s = s.reshape(batch, kv_heads, group, stop - start, seen)
        s[..., ~_visible(total - time + start, seen, None, xp)] = -xp.inf
        if padding is not None:
            hidden = ~_visible(total - time + start, seen, padding, xp)  # (B, t, T)
            s = xp.where(hidden[:, None, None], q.dtype.type(-np.inf), s)
        p = _softmax(s, xp).reshape(batch, kv_heads, -1, seen)
        y[:, :, start:stop] = (p @ v[:, :, :seen]).reshape(batch, heads, stop - start, width)
    return y


def _visible(first_query: int, stop: int, padding, xp):
    """Which keys 0 ... stop - 1 the queries first_query ... stop - 1 see: (t, T); with padding (B, t, T)."""
    i, j = xp.arange(first_query, stop)[:, None], xp.arange(stop)[None, :]
    if padding is None:
        return j <= i
    return (j >= padding[:, None, None]) | (j == i)


def _softmax(s, xp):
    """Over the last axis, written over s."""
    s -= s.max(axis=-1, keepdims=True)
    xp.exp(s, out=s)
    s /= s.sum(axis=-1, keepdims=True)
    return s
