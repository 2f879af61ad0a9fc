"""Attention of new tokens to all tokens so far: attention.py for generation, where keys and values
come from a cache.

    s_ij = sum_d q_id k_jd / sqrt(D)        for the new tokens i and all tokens j that they see
    p_ij = softmax over j of s_ij
    y_id = sum_j p_ij v_jd

Token i sees j <= i; with a window, only j > i - window; and no column of padding.

With the largest score m_i, softmax is p_ij = e_ij / l_i, e_ij = exp(s_ij - m_i), l_i = sum_j e_ij.
The division waits until after the product with v, which leaves D numbers of each token in place of
T. So the keys can be cut into parts c, too, each with an m, l and y = sum_j e_ij v_jd of its own:

    m = max_c m_c        w_c = exp(m_c - m)        y = sum_c w_c y_c / sum_c w_c l_c

On the CPU, parts of the texts, of the heads, of the queries of a prompt and of the keys of one
token are divided among the cores (sharing.py). On a device the cache is written and read by
kernels: `attention_by_kernels` in decoding.py.
"""

from __future__ import annotations

import math

import numpy as np

from minillm.backend.arrays import array_module
from minillm.backend.sharing import shared
from minillm.backend.threads import thread_count

QUERY_BLOCK = 64  # queries whose scores exist at a time, in training too: for 256 tokens a tenth faster than 128
KEY_BLOCK, MANY_HEADS = 1024, 4  # keys of a part that one token reads, where it has fewer key/value heads
SCORES = 1 << 16  # numbers of the scores of a part of a prompt, where one head has fewer
SHARED = 1 << 18  # numbers of k from which one token is the work of all cores: a megabyte
FEW_SCORES = 1200  # with more, OpenBLAS takes several times as long for q k^T as for k q^T


def cached_attention(q, k, v, padding=None, window: int | None = None):
    """q (B, H, t, D) of the last t tokens, k and v (B, H_kv, T, D) of the last T  ->  y (B, H, t,
    D)

    H is a multiple of H_kv. padding (B,): of the T columns, how many at the start of each row hold
    no token. Padding columns are masked for all other tokens. Each attends to itself so that its
    softmax is not empty; the result is ignored. window: how many tokens a token sees, itself
    included; None for all.
    """
    B, H, t, D = q.shape
    H_kv, T = k.shape[1], k.shape[2]
    q = q * q.dtype.type(1 / math.sqrt(D))
    q = q.reshape(B, H_kv, H // H_kv, t, D)
    if t == 1 and padding is None and (window is None or T <= window):  # one new token sees all: no mask
        return _attention_of_one_token(q[:, :, :, 0], k, v).reshape(B, H, 1, D)
    xp = array_module(q)
    y = xp.empty_like(q)

    def attend(part) -> None:
        b, h, start, stop = part  # texts, key/value heads, and the queries from start to stop
        i = xp.arange(T - t + start, T - t + stop)  # as columns
        first = 0 if window is None else max(0, T - t + start + 1 - window)
        keys = slice(first, T - t + stop)  # what the first of them sees begins here, what the last sees ends here
        rows = q[b, h, :, start:stop]
        B, H_kv, group, n, D = rows.shape
        # The rows of a group share k and v: one product for them all.
        s = rows.reshape(B, H_kv, group * n, D) @ k[b, h, keys].swapaxes(2, 3)
        s = s.reshape(B, H_kv, group, n, -1)
        _hide_unseen(s, i, T - t + start, keys, None if padding is None else padding[b], window)
        e, total, _ = _exponentials(s)
        sums = e.reshape(B, H_kv, group * n, -1) @ v[b, h, keys]
        y[b, h, :, start:stop] = sums.reshape(rows.shape) / total

    shared(attend, _parts_of_a_prompt(q, T), xp is np)
    return y.reshape(B, H, t, D)


def _attention_of_one_token(q, k, v):
    """The same for one token of each text, which sees all keys: q (B, H_kv, H / H_kv, D)  ->  y"""
    if type(q) is not np.ndarray or k.size < SHARED:
        return _part_of_one_token(q, k, v)[0]
    B, H_kv, group, D = q.shape
    T = k.shape[2]
    columns = KEY_BLOCK if H_kv < MANY_HEADS else T  # of a part
    count, threads = -(-T // columns), thread_count() or 1
    texts = -(-B // threads) if count == 1 and B > 1 else B
    heads = -(-H_kv // threads) if count == 1 and B == 1 else H_kv
    y, m, total = (np.empty((count, B, H_kv, group, width), q.dtype) for width in (D, 1, 1))

    def attend(part) -> None:
        c, b, h = part  # a part of the keys, texts, and key/value heads
        j = slice(c * columns, (c + 1) * columns)
        y[c, b, h], m[c, b, h], total[c, b, h] = _part_of_one_token(q[b, h], k[b, h, j], v[b, h, j])

    shared(attend, [(c, b, h) for c in range(count) for b, h in _slices(B, texts, H_kv, heads)])
    if count == 1:
        return y[0]
    w = total * np.exp(m - m.max(axis=0))  # y of a part is divided by its l already
    return (w * y).sum(axis=0) / w.sum(axis=0)


def _part_of_one_token(q, k, v):
    """y, m and l of the keys k; l is named total."""
    e, total, m = _exponentials(_scores(q, k))
    y = e @ v  # (B, H_kv, H / H_kv, T) @ (B, H_kv, T, D)
    y /= total
    return y, m, total


def _parts_of_a_prompt(q, T: int) -> list:
    """(texts, key/value heads, start and stop of queries) whose scores are about SCORES numbers,
    the largest first.
    """
    B, H_kv, group, t, _ = q.shape
    parts = []
    for start in reversed(range(0, t, QUERY_BLOCK)):
        stop = min(start + QUERY_BLOCK, t)
        size = group * (stop - start) * (T - t + stop)  # of one head
        texts, heads = max(1, SCORES // (size * H_kv)), max(1, SCORES // size)
        parts += [(b, h, start, stop) for b, h in _slices(B, texts, H_kv, heads)]
    return parts


def _slices(B: int, texts: int, H_kv: int, heads: int) -> list:
    """Pairs of slices: of so many texts, and of so many key/value heads."""
    return [(slice(b, b + texts), slice(h, h + heads)) for b in range(0, B, texts) for h in range(0, H_kv, heads)]


def _scores(q, k):
    """q (B, H_kv, H / H_kv, D), k (B, H_kv, T, D)  ->  q k^T (B, H_kv, H / H_kv, T)"""
    if 1 < q.shape[2] and q.shape[2] * k.shape[2] > FEW_SCORES:
        return array_module(q).ascontiguousarray((k @ q.swapaxes(2, 3)).swapaxes(2, 3))
    return q @ k.swapaxes(2, 3)


def _hide_unseen(s, i, first: int, keys: slice, padding, window: int | None) -> None:
    """Set the scores s (B, H_kv, H / H_kv, t, T) of keys that the queries i (t,) do not see to
    -inf. first: i[0].
    """
    xp = array_module(s)
    seen_by_all = first - keys.start if padding is None and window is None else 0
    j = xp.arange(keys.start + seen_by_all, keys.stop)
    s = s[..., seen_by_all:]
    s[...] = xp.where(_visible(i[:, None], j, padding, window), s, s.dtype.type(-math.inf))


def _visible(i, j, padding, window: int | None):
    """Which keys the queries see: i (t, 1), j (T,) -> (t, T) or, with padding, (B, 1, 1, t, T)."""
    visible = j <= i
    if window is not None:
        visible &= j > i - window
    if padding is not None:
        visible = visible & ((j >= padding[:, None, None, None, None]) | (j == i))
    return visible


def _exponentials(s):
    """s (..., T)  ->  e = exp(s - m), written over s, l = sum e and m = max s"""
    if array_module(s) is not np:
        m = s.max(axis=-1, keepdims=True)
        s -= m
        array_module(s).exp(s, out=s)
        return s, s.sum(axis=-1, keepdims=True), m
    # The same by ufuncs, which take a microsecond less: 2% of a token of four layers of width 128.
    m = np.maximum.reduce(s, axis=-1, keepdims=True)
    s -= m
    np.exp(s, out=s)
    return s, np.add.reduce(s, axis=-1, keepdims=True), m
