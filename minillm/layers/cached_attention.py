"""Attention of new tokens to all tokens so far: attention.py for generation, where keys and values
come from a cache.

    s_ij = sum_d q_id k_jd / sqrt(D)        for the new tokens i and all tokens j that they see
    p_ij = softmax over j of s_ij
    y_id = sum_j p_ij v_jd

Token i sees j <= i; with a window, only j > i - window; and no column of padding.

On a device the cache is written and read by kernels: `attention_by_kernels` in decoding.py.
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.arrays import array_module

QUERY_BLOCK = 128  # queries whose scores exist at a time


def cached_attention(q, k, v, padding=None, window: int | None = None):
    """q (B, H, t, D) of the last t tokens, k and v (B, H_kv, T, D) of the last T  ->  y (B, H, t,
    D)

    H is a multiple of H_kv. padding (B,): of the T columns, how many at the start of each row hold
    no token. Padding columns are masked for all other tokens. Each attends to itself so that its
    softmax is not empty; the result is ignored. window: how many tokens a token sees, itself
    included; None for all.
    """
    xp = array_module(q)
    B, H, t, D = q.shape
    H_kv, T = k.shape[1], k.shape[2]
    q = q * q.dtype.type(1 / math.sqrt(D))
    if t == 1 and padding is None and (window is None or T <= window):  # one new token sees all: no mask
        s = q.reshape(B, H_kv, H // H_kv, D) @ k.swapaxes(2, 3)  # (B, H_kv, H / H_kv, D) @ (B, H_kv, D, T)
        return (_softmax(s, xp) @ v).reshape(B, H, 1, D)
    y = xp.empty_like(q)
    for start in range(0, t, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, t)
        i = xp.arange(T - t + start, T - t + stop)  # the queries of this block, as columns
        first = 0 if window is None else max(0, T - t + start + 1 - window)
        keys = slice(first, T - t + stop)  # what the first of them sees begins here, what the last sees ends here
        rows = q[:, :, start:stop].reshape(B, H_kv, -1, D)
        s = rows @ k[:, :, keys].swapaxes(2, 3)  # (B, H_kv, H / H_kv t, D) @ (B, H_kv, D, T)
        s = s.reshape(B, H_kv, H // H_kv, stop - start, -1)
        s = xp.where(
            _visible(i[:, None], xp.arange(keys.start, keys.stop), padding, window), s, s.dtype.type(-math.inf)
        )
        p = _softmax(s, xp).reshape(B, H_kv, -1, s.shape[-1])
        y[:, :, start:stop] = (p @ v[:, :, keys]).reshape(B, H, stop - start, D)
    return y


def _visible(i, j, padding, window: int | None):
    """Which keys the queries see: i (t, 1), j (T,) -> (t, T) or, with padding, (B, 1, 1, t, T)."""
    visible = j <= i
    if window is not None:
        visible &= j > i - window
    if padding is not None:
        visible = visible & ((j >= padding[:, None, None, None, None]) | (j == i))
    return visible


def _softmax(s, xp):
    """Over the last axis, written over s."""
    if xp is not np:
        s -= s.max(axis=-1, keepdims=True)
        xp.exp(s, out=s)
        s /= s.sum(axis=-1, keepdims=True)
        return s
    # The same by ufuncs, which take a microsecond less: 2% of a token of four layers of width 128.
    s -= np.maximum.reduce(s, axis=-1, keepdims=True)
    np.exp(s, out=s)
    s /= np.add.reduce(s, axis=-1, keepdims=True)
    return s
