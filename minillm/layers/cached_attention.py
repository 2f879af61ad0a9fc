"""Attention of new tokens to all tokens so far: attention.py for generation, where keys and values
come from a cache.

    s_ij = sum_d q_id k_jd / sqrt(D)        for the new tokens i and all tokens j that they see
    p_ij = softmax over j of s_ij
    y_id = sum_j p_ij v_jd

Token i sees j <= i; with a window, only j > i - window; and no column of padding.

On a device the cache is written and read by kernels: `attention_by_kernels`.
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.arrays import array_module, contiguous
from minillm.kernels import kernel_for
from minillm.kernels.launch import empty

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


# ------------------------------------------------------------------------------------------------------------- kernels


def decode_kernel(x, width: int):
    """The launcher of kernels/attention/decode.cu; None where it does not take the numbers of x, or
    heads of that width.
    """
    if kernel_for("attention", x) is None:
        return None
    from minillm.kernels.attention import decode

    return decode if decode.takes(width) else None


def attention_by_kernels(kernel, layer, q, k, v, width: int, cache, window=None, **rotation):
    """q, k and v of the new tokens, each kernels/attention/decode.py's Heads  ->  y (B, t, H D)

    kernel: what `decode_kernel` gave. layer: whose columns of the cache they are. width: D.
    rotation: arguments of that file's `append`.
    """
    B, t, H = len(q.matrix) // cache.count, cache.count, q.count
    settings = dict(place=cache.place, padding=cache.padding)
    room = cache.reserve(layer, k.count, width, k.matrix.dtype, window)
    if room is None:  # more new columns than a window keeps
        keys, values, first = *(empty((B, k.count, t, width), k.matrix, k.matrix.dtype) for _ in "kv"), cache.length
    else:
        keys, values, first = room
    q = kernel.append(q, k, v, keys, values, first=first, **settings, **rotation)
    if room is None:
        seen = cache.append(layer, keys, values, window=window)
    if not cache.length and t > 1:
        y = _attention_to_prompt(q, keys[:, :, :t], values[:, :, :t], cache, window)
    else:
        if room is None:
            keys, values = map(contiguous, seen)
            first = cache.length + t - keys.shape[2]
        y = kernel.decode_attention(q, keys, values, first=first, window=window, **settings)
    return y.reshape(B, t, H * width)


def _attention_to_prompt(q, k, v, cache, window):
    """Where the new tokens are all that there are: Heads q, k and v (B, H_kv, T, D)  ->  y (B, T,
    H D), by the kernels of forward.
    """
    B, _, T, D = k.shape
    heads = q.matrix[:, q.first : q.first + q.count * D].reshape(B, T, q.count, D).transpose(0, 2, 1, 3)
    starts = None
    if cache.padding is not None:  # a column of padding sees itself alone
        xp = array_module(k)
        starts = xp.minimum(cache.padding[:, None], xp.arange(T)).astype("int32")
    settings = {} if window is None or window >= T else {"window": window}
    forward = kernel_for("attention", k).attention_forward
    y, _ = forward(*map(contiguous, (heads, k, v)), starts=starts, **settings)
    return y.transpose(0, 2, 1, 3).reshape(B, T, q.count * D)
