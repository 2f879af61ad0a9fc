"""Attention: the only layer that mixes information across time. Every token looks back and takes what it needs.

Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1. For each head, with D its width and i >= j (causal:
a token sees itself and what came before):

    S_ij = sum_d q_id k_jd / sqrt(D)        how well what i asks for fits what j offers; -inf where i < j
    P_ij = softmax over j of S_ij           how much i looks at j
    y_id = sum_j P_ij v_jd                  the average of what is found there

Backward, line by line, with dX = dL/dX:

    dv_jd = sum_i P_ij dy_id                          dv = P^T dy
    dP_ij = sum_d dy_id v_jd                          dP = dy v^T
    dS_ij = P_ij (dP_ij - sum_k dP_ik P_ik)           softmax.py
          = P_ij (dP_ij - sum_d dy_id y_id)           since sum_k P_ik v_kd = y_id: a sum over D in place of T
    dq_id = sum_j dS_ij k_jd / sqrt(D)                dq = dS k / sqrt(D)
    dk_jd = sum_i dS_ij q_id / sqrt(D)                dk = dS^T q / sqrt(D)

A mask needs no gradient of its own: where P is 0, dS is 0. With grouped key/value heads (Ainslie et al., "GQA", 2023) the
query heads h of a group read the same k and v, so dk and dv sum over the group.

The queries are taken in blocks. A causal block that ends at row e needs no key after e, which saves nearly half of the
arithmetic and of the memory; each block is computed as the whole would be, so the result is the same.
"""

from __future__ import annotations

import math
from functools import lru_cache

from minillm.backend.arrays import array_module, contiguous
from minillm.backend.matmul import matmul
from minillm.backend.precision import downcast, upcast
from minillm.kernels import dispatch
from minillm.layers.cached_attention import cached_attention
from minillm.layers.dropout import Dropout, dropout_factor
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear
from minillm.layers.softmax import row_max, row_sum

QUERY_BLOCK = 128


def attention_forward(q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved

    dropout > 0 drops attention probabilities with the mask of `rng_key` (dropout.py), element (b, h, i, j) in C order, where
    b counts from `batch_offset`.
    """
    xp, like = array_module(q), q
    q, k, v = upcast(q), upcast(k), upcast(v)
    batch, heads, time, width = q.shape
    kv_heads, scale = k.shape[1], q.dtype.type(1 / math.sqrt(width))
    k, v = _repeat_heads(k, heads), _repeat_heads(v, heads)
    k_t = _transposed(k)
    factor = dropout_factor((batch, heads, time, time), dropout, rng_key, q, batch_offset) if dropout else None
    y = xp.empty((batch, time, heads, width), dtype=q.dtype).transpose(0, 2, 1, 3)  # a token's heads lie side by side
    blocks = []
    for rows, keys in _blocks(time, causal):
        s = matmul(q[:, :, rows] * scale, k_t[..., keys])  # (B, H, t, D) @ (B, H, D, T)
        if causal:
            s += _causal_mask(rows.start, keys.stop, s.dtype.name, xp)
        s -= row_max(s)
        p = xp.exp(s, out=s)
        p *= 1 / row_sum(p)
        if factor is not None:
            p = (p, p * factor[:, :, rows, keys])
        blocks.append(p)
        matmul(_seen(p), v[:, :, keys], out=y[:, :, rows])  # (B, H, t, T) @ (B, H, T, D)
    return downcast(y, like), (q, k, v, y, blocks, causal, factor, kv_heads)


def attention_backward(dy, saved):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)"""
    q, k, v, y, blocks, causal, factor, kv_heads = saved
    xp, like, dy = array_module(dy), dy, upcast(dy)
    batch, heads, time, width = q.shape
    scale = q.dtype.type(1 / math.sqrt(width))
    dq, dk, dv = (xp.empty((batch, time, heads, width), dtype=q.dtype).transpose(0, 2, 1, 3) for _ in "qkv")
    average = xp.einsum("bhtd,bhtd->bht", dy, y)[..., None]  # sum_j dP_ij P_ij = sum_d dy_id y_id
    v_t = _transposed(v)
    # From the last block to the first: the last one sees every rng_key, so it fills dk and dv, and the others add to them.
    for p, (rows, keys) in reversed(list(zip(blocks, _blocks(time, causal)))):
        dy_rows = dy[:, :, rows]
        # forward: y = p @ v
        _put(dv, keys, _seen(p).transpose(0, 1, 3, 2), dy_rows, rows.stop == time)  # (B, H, T, t) @ (B, H, t, D)
        ds = matmul(dy_rows, v_t[..., keys])  # dP: (B, H, t, D) @ (B, H, D, T)
        if factor is not None:
            # forward: dropped = p * factor
            ds *= factor[:, :, rows, keys]
            p, _ = p
        # forward: p = softmax(s)
        ds -= average[:, :, rows]
        ds *= p
        ds *= scale
        # forward: s = q @ k^T * scale
        matmul(ds, k[:, :, keys], out=dq[:, :, rows])  # (B, H, t, T) @ (B, H, T, D)
        _put(dk, keys, ds.transpose(0, 1, 3, 2), q[:, :, rows], rows.stop == time)  # (B, H, T, t) @ (B, H, t, D)
    dk, dv = _sum_heads(dk, kv_heads), _sum_heads(dv, kv_heads)
    return downcast(dq, like), downcast(dk, like), downcast(dv, like)


def _transposed(x):
    """(B, H, T, D) -> (B, H, D, T), copied: small products with a transposed matrix take nearly twice the time."""
    return array_module(x).ascontiguousarray(x.transpose(0, 1, 3, 2))


def _put(gradient, keys, a, b, first):
    """a @ b into the rows `keys` of a gradient: written by the first block, added by the others."""
    matmul(a, b, out=gradient[:, :, keys], add=not first)


def _blocks(time, causal):
    """(query rows, the keys they may see), as slices, from the first row to the last."""
    for start in range(0, time, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, time)
        yield slice(start, stop), slice(0, stop if causal else time)


@lru_cache(maxsize=64)
def _causal_mask(batch_offset, stop, dtype, xp):
    """(stop - batch_offset, stop): 0 where key j is not after query i, -inf where it is."""
    i, j = xp.arange(batch_offset, stop)[:, None], xp.arange(stop)[None, :]
    return xp.where(j <= i, 0, -xp.inf).astype(dtype)


def _seen(p):
    """The probabilities that meet v: after dropout, if there is any."""
    return p[1] if isinstance(p, tuple) else p


def _repeat_heads(x, heads):
    """(B, H_kv, T, D) -> (B, H, T, D): each key/value head once for every query head of its group."""
    return x if x.shape[1] == heads else array_module(x).repeat(x, heads // x.shape[1], axis=1)


def _sum_heads(dx, kv_heads):
    """The gradient of `_repeat_heads`: (B, H, T, D) -> (B, H_kv, T, D)."""
    batch, heads, time, width = dx.shape
    return dx if heads == kv_heads else dx.reshape(batch, kv_heads, heads // kv_heads, time, width).sum(axis=2)


def split_heads(x, H):
    """(B, T, H D) -> (B, H, T, D)"""
    B, T, width = x.shape
    return x.reshape(B, T, H, width // H).swapaxes(1, 2)


def merge_heads(y):
    """(B, H, T, D) -> (B, T, H D): the inverse of `split_heads`."""
    B, H, T, D = y.shape
    return y.swapaxes(1, 2).reshape(B, T, H * D)


# ------------------------------------------------------------------------------------------------------------ the layer


class CausalSelfAttention(Layer):
    """Multi-head causal self-attention with its projections, as in GPT-2: x (B, T, C) -> y (B, T, C).

    c_attn computes queries, keys and values of all heads in one product, (B, T, 3C); c_proj mixes the heads' results.
    """

    def __init__(self, c_attn: Linear, c_proj: Linear, n_head: int, dropout: float = 0.0):
        self.c_attn = c_attn
        self.c_proj = c_proj
        self.n_head = n_head
        self.attn_dropout = Dropout(dropout)

    def forward(self, x, rng_key=None):
        batch, time, channels = x.shape
        qkv = self.c_attn.forward(x).reshape(batch, time, 3, self.n_head, channels // self.n_head)
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # (B, T, 3, H, D) -> 3 times (B, H, T, D)
        forward, backward = dispatch(q, attention_forward, attention_backward)
        if forward is not attention_forward:
            q, k, v = contiguous(q), contiguous(k), contiguous(v)  # as kernels want them
        drop = self.attn_dropout
        dropping = (
            dict(dropout=drop.p, rng_key=drop.layer_key(rng_key), batch_offset=drop.batch_offset)
            if self.training and drop.p
            else {}
        )
        y, saved = forward(q, k, v, causal=True, **dropping)
        self.save_for_backward((backward, saved))
        return self.c_proj.forward(y.transpose(0, 2, 1, 3).reshape(batch, time, channels))

    def backward(self, dy):
        backward, saved = self.take_saved()
        batch, time, channels = dy.shape
        # forward: out = c_proj(y)
        dy = self.c_proj.backward(dy).reshape(batch, time, self.n_head, channels // self.n_head)
        # forward: y = attention(q, k, v)
        dy = dy.transpose(0, 2, 1, 3)
        gradients = backward(dy if backward is attention_backward else contiguous(dy), saved)
        # forward: q, k, v = c_attn(x), side by side
        dqkv = array_module(dy).empty_like(dy, shape=(batch, time, 3, *gradients[0].shape[1::2]), order="C")
        for i, gradient in enumerate(gradients):
            dqkv[:, :, i] = gradient.transpose(0, 2, 1, 3)  # (B, H, T, D) -> (B, T, H, D)
        return self.c_attn.backward(dqkv.reshape(batch, time, 3 * channels))

    def decode(self, x, cache):
        B, t, C = x.shape
        qkv = self.c_attn.decode(x, cache).reshape(B, t, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # 3 times (B, H, t, D)
        k, v = cache.append(self, k, v)  # (B, H, T, D)
        y = cached_attention(q, k, v, cache.padding_in(k.shape[2]))
        return self.c_proj.decode(merge_heads(y), cache)
