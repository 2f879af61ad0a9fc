"""Attention: the only layer that mixes information across time. A token reads the tokens before it.

Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1. For each head, of width D:

    s_ij = sum_d q_id k_jd / sqrt(D)        how well the query of token i fits the key of token j
    p_ij = softmax over j of s_ij           the share of its attention that token i gives to token j
    y_id = sum_j p_ij v_jd                  the average of the values, with these weights

Causal: token i sees the tokens j <= i. A mask adds -inf to the other scores, and their p_ij is 0.
Where several documents are packed into a row b (documents.py), token i sees those of its own, and
with a sliding window (Jiang et al., "Mistral 7B", 2023) the last `window` tokens, itself included:

    starts_bi <= j <= i                         a document that begins at starts_bi
    i - window + 1 <= j <= i                    a window: the same with starts_bi = i - window + 1
    max(starts_bi, i - window + 1) <= j <= i    both: of the two borders the later one

Backward, line by line, with dx = dL/dx:

    dv_jd = sum_i p_ij dy_id                      dv = p^T dy
    dp_ij = sum_d dy_id v_jd                      dp = dy v^T
    ds_ij = p_ij (dp_ij - sum_l p_il dp_il)       the gradient of softmax (softmax.py)
          = p_ij (dp_ij - sum_d dy_id y_id)       since sum_l p_il v_ld = y_id: a sum over D in place of T
    dq_id = sum_j ds_ij k_jd / sqrt(D)            dq = ds k / sqrt(D)
    dk_jd = sum_i ds_ij q_id / sqrt(D)            dk = ds^T q / sqrt(D)

The mask needs no gradient: where p is 0, ds is 0, so nothing crosses the border of a document, to
the last bit. Dropout multiplies p by a factor f (dropout.py) before it meets v: y = (f p) v. So
dv = (f p)^T dy, dp = f (dy v^T), and the second form of ds stays as it is.

`attend` and `attend_backward` are these equations for a block of queries. `attention_forward` and
`attention_backward` go through the blocks: one that ends at query e needs no key after e, which
saves nearly half of the arithmetic and of the memory, and none before the first that one of its
queries sees. Each query is computed as it would be in a single block. With grouped key/value heads
(Ainslie et al., "GQA", 2023) several query heads read the same k and v, which are repeated for
them; dk and dv are sums over the group.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from minillm.backend.arrays import array_module, contiguous, device_of
from minillm.backend.matmul import matmul
from minillm.backend.precision import downcast, dtype_name, upcast
from minillm.kernels import dispatch
from minillm.layers.cached_attention import QUERY_BLOCK, cached_attention
from minillm.layers.decoding import attention_by_kernels, decode_kernel, decoded_onto
from minillm.layers.dropout import Dropout, dropout_factor
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear, projected
from minillm.layers.softmax import softmax_forward


def attend(q, k, v, mask, factor=None, out=None):
    """The formula. q, y (B, H, t, D), k, v (B, H, T, D), mask (..., t, T), p (B, H, t, T)  ->  y, p

    mask: one for all, or for each row of the batch. factor (B, H, t, T): what dropout multiplies p
    by; None for no dropout. out: an array for y.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    s = matmul(q * scale, transpose(k))  # (B, H, t, D) @ (B, H, D, T)
    s += mask
    p, _ = softmax_forward(s, out=s)
    y = matmul(dropped(p, factor), v, out=out)  # (B, H, t, T) @ (B, H, T, D)
    return y, p


def attend_backward(dy, q, k, v, y, p, factor=None):
    """Its gradient: dy (B, H, t, D)  ->  dq (B, H, t, D), dk and dv (B, H, T, D)

    What forward took and gave: q, y (B, H, t, D), k, v (B, H, T, D), p and factor (B, H, t, T).
    """
    scale = 1 / math.sqrt(q.shape[-1])
    # forward: y = matmul(dropped(p, factor), v, out=out)
    dp = matmul(dy, transpose(v))  # (B, H, t, D) @ (B, H, D, T)
    # forward: p * factor
    if factor is not None:
        dp *= factor
    # forward: p, _ = softmax_forward(s, out=s): ds = p * (dp - row_dot(dy, y)), over dp
    ds = dp
    ds -= row_dot(dy, y)
    ds *= p
    # forward: s = matmul(q * scale, transpose(k)); s += mask
    ds *= scale
    dq = matmul(ds, k)  # (B, H, t, T) @ (B, H, T, D)
    dk = matmul(transpose(ds), q)  # (B, H, T, t) @ (B, H, t, D)
    del dp, ds  # their memory is free for dv
    # forward: y = matmul(dropped(p, factor), v, out=out)
    dv = matmul(transpose(dropped(p, factor)), dy)  # (B, H, T, t) @ (B, H, t, D)
    return dq, dk, dv


def dropped(p, factor):
    """p * factor, or p itself where nothing is dropped."""
    return p if factor is None else p * factor


def transpose(x):
    """x^T of every matrix, as a view: (..., N, M) -> (..., M, N)."""
    return x.swapaxes(-1, -2)


def row_dot(a, b):
    """sum_d a_id b_id of every row: two arrays (B, H, t, D) -> (B, H, t, 1)."""
    return array_module(a).einsum("bhtd,bhtd->bht", a, b)[..., None]


# ------------------------------------------------------------------------------------------- blocks around the formula


class AttentionSaved(NamedTuple):
    """What backward needs of forward, in float32 where q was bfloat16."""

    q: Any  # (B, H, T, D), y likewise
    k: Any  # (B, H, T, D), v likewise: after `repeat_heads`
    v: Any
    y: Any
    p: list  # for each block of t queries, which see n keys: (B, H, t, n), or of some rows of the batch
    factor: Any  # of dropout (B, H, T, T), or None
    n_kv_head: int
    causal: bool
    window: int | None
    first: Any  # (B, T): the first key that each query sees, where there are documents, or None


def attention_forward(
    q, k, v, causal=True, dropout=0.0, rng_key=None, batch_offset=0, window=None, starts=None, heads=None
):
    """q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv  ->  y (B, H, T, D), saved

    dropout > 0 drops probabilities with the mask of `rng_key` (dropout.py), element (b, h, i, j) in
    C order, where b counts from `batch_offset`. heads: which of all heads these are, for that mask;
    None: they are all (dropout_factor). window: how many tokens a token sees, itself
    included; None: all before it. starts (B, T) int: where the document of each token begins; None:
    a row is one document. Raises ValueError for a window below 1, and for a window or starts
    without `causal`.
    """
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window={window}, causal={causal}: a window is at least 1 token, and causal")
    if starts is not None and not causal:
        raise ValueError("starts without causal: a token of a document sees those before it")
    like, n_kv_head = q, k.shape[1]
    q, k, v = upcast(q), upcast(k), upcast(v)
    B, H, T, D = q.shape
    k, v = repeat_heads(k, H), repeat_heads(v, H)
    factor = dropout_factor((B, H, T, T), dropout, rng_key, q, batch_offset, heads) if dropout else None
    # A token's heads lie side by side, so that merge_heads(y) is a view.
    y, p = array_module(q).empty((B, T, H, D), dtype=q.dtype).transpose(0, 2, 1, 3), []
    k_quick, first = quick_to_transpose(k), first_keys(starts, window)
    for b, rows, keys in _blocks(T, causal, window, first):
        mask = _mask(b, rows, keys, causal, window, first, q)
        block = q[b, :, rows], k_quick[b, :, keys], v[b, :, keys], mask
        p.append(attend(*block, _block_of(factor, b, rows, keys), out=y[b, :, rows])[1])
    return downcast(y, like), AttentionSaved(q, k, v, y, p, factor, n_kv_head, causal, window, first)


def attention_backward(dy, saved, out=None):
    """dy (B, H, T, D)  ->  dq (B, H, T, D), dk and dv (B, H_kv, T, D)

    out: arrays that they are written to as well, such as parts of one array.
    """
    q, k, v, y, p, factor, n_kv_head, causal, window, first = saved
    like, dy, gradients = dy, upcast(dy), None
    v_quick = quick_to_transpose(v)
    # From the last block to the first: the last one sees the most keys, and its dk and dv become
    # the whole ones.
    # forward: attend(*block, _block_of(factor, b, rows, keys), out=y[b, :, rows])
    for p_rows, (b, rows, keys) in reversed(list(zip(p, _blocks(q.shape[2], causal, window, first)))):
        block = dy[b, :, rows], q[b, :, rows], k[b, :, keys], v_quick[b, :, keys], y[b, :, rows], p_rows
        parts = attend_backward(*block, _block_of(factor, b, rows, keys))
        gradients = accumulate(gradients, b, rows, keys, q.shape, parts)
    dq, dk, dv = gradients
    # forward: k, v = repeat_heads(k, H), repeat_heads(v, H)
    dk, dv = sum_heads(dk, n_kv_head), sum_heads(dv, n_kv_head)
    copy_to(out, (dq, dk, dv))
    return downcast(dq, like), downcast(dk, like), downcast(dv, like)


def copy_to(places, arrays) -> None:
    """Copy each array to its place, in the place's dtype; places: None for nowhere."""
    for n in range(len(places or ())):
        places[n][...] = arrays[n]


def accumulate(gradients, b, rows, keys, shape, parts):
    """Add the parts of one block to dq at `rows`, and to dk and dv at `keys`, of the batch's rows
    b.

    gradients: dq, dk and dv, each of `shape` (B, H, T, D). None: the parts begin them, without a
    copy where they are whole.
    """
    places = rows, keys, keys
    if gradients is None:
        return [_extended(part, b, place, shape) for part, place in zip(parts, places)]
    for gradient, place, part in zip(gradients, places, parts):
        gradient[b, :, place] += part
    return gradients


def _extended(part, b, place, shape):
    """An array of `shape`: part at the rows b and the tokens of `place`, and 0 elsewhere."""
    if part.shape == shape:
        return part
    whole = array_module(part).zeros(shape, dtype=part.dtype)
    whole[b, :, place] = part
    return whole


def first_keys(starts, window):
    """(B, T): the first key that each query sees, of documents and a window; None without
    documents.
    """
    if starts is None or window is None:
        return starts
    xp = array_module(starts)
    return xp.maximum(starts, xp.arange(starts.shape[1]) - window + 1)


def _blocks(T, causal, window, first):
    """For each block of queries, as slices: rows of the batch, its queries, and the keys that one
    of them sees.

    Rows of the batch that lie side by side, and whose keys begin at the same place, are one block.
    """
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        for b, first_key in _first_keys_of(start, window, first):
            yield b, slice(start, stop), slice(first_key, stop if causal else T)


def _first_keys_of(query, window, first):
    """Rows of the batch, and the first key that `query`, or one after it, sees there."""
    if first is None or device_of(first) != "cpu":  # reading numbers of a device would wait for it
        yield slice(None), 0 if window is None else max(0, query - window + 1)
        return
    row = 0
    for first_key, run in groupby(first[:, query].tolist()):  # first never decreases along a row
        count = len(list(run))
        yield slice(row, row + count), first_key
        row += count


def _mask(b, rows, keys, causal, window, first, q):
    """What is added to a block's scores: one mask for all, with documents one for each row of the
    batch, or 0 where every query sees every key.
    """
    if first is None:
        dtype = dtype_name(q.dtype)
        return _causal_mask(rows.start, keys.start, rows.stop, window, dtype, array_module(q)) if causal else 0
    xp = array_module(first)
    i, j = xp.arange(rows.start, rows.stop)[:, None], xp.arange(keys.start, keys.stop)[None, :]
    seen = (j <= i) & (j >= first[b, rows, None])
    return xp.where(seen, 0, -xp.inf).astype(q.dtype)[:, None]


@lru_cache(maxsize=64)
def _causal_mask(first_query, first_key, stop, window, dtype, xp):
    """(stop - first_query, stop - first_key): 0 where query i sees key j, -inf where it
    does not.
    """
    i, j = xp.arange(first_query, stop)[:, None], xp.arange(first_key, stop)[None, :]
    seen = j <= i if window is None else (j <= i) & (j > i - window)
    return xp.where(seen, 0, -xp.inf).astype(dtype)


def _block_of(factor, b, rows, keys):
    return None if factor is None else factor[b, :, rows, keys]


def quick_to_transpose(x):
    """x (B, H, T, D) in the memory order of its transpose: small products with x^T take half the
    time."""
    return transpose(array_module(x).ascontiguousarray(transpose(x)))


def repeat_heads(x, n_head):
    """(B, H_kv, T, D) -> (B, H, T, D): each key/value head once for every query head of
    its group.
    """
    return x if x.shape[1] == n_head else array_module(x).repeat(x, n_head // x.shape[1], axis=1)


def sum_heads(dx, n_kv_head):
    """The gradient of `repeat_heads`: (B, H, T, D) -> (B, H_kv, T, D)."""
    B, H, T, D = dx.shape
    # forward: array_module(x).repeat(x, n_head // x.shape[1], axis=1): gradients of copies add up
    return dx if H == n_kv_head else dx.reshape(B, n_kv_head, H // n_kv_head, T, D).sum(axis=2)


def split_heads(x, n_head):
    """(B, T, H D) -> (B, H, T, D), a view."""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head).transpose(0, 2, 1, 3)


def split_qkv(qkv, n_head):
    """qkv (B, T, C)  ->  q (B, H, T, D), k (B, H, T, D), v (B, H, T, D), views. C: 3 H D here."""
    B, T, C = qkv.shape
    return tuple(qkv.reshape(B, T, 3, n_head, C // 3 // n_head).transpose(2, 0, 3, 1, 4))


def merge_heads(y):
    """(B, H, T, D) -> (B, T, H D), the inverse of `split_heads`: a view where a token's heads lie
    side by side."""
    B, H, T, D = y.shape
    return y.transpose(0, 2, 1, 3).reshape(B, T, H * D)


class CausalSelfAttention(Layer):
    """Multi-head causal self-attention with its projections, x (B, T, C) -> y (B, T, C), as in
    GPT-2.

        q, k, v = split_heads(c_attn(x))        y = c_proj(merge_heads(attention(q, k, v)))

    c_attn computes queries, keys and values of all heads in one product, side by side.
    """

    def __init__(self, c_attn: Linear, c_proj: Linear, n_head: int, dropout: float = 0.0):
        """c_attn: C -> 3C; c_proj: C -> C; dropout: the probability with which an attention
        probability is dropped."""
        self.c_attn = c_attn
        self.c_proj = c_proj
        self.n_head = n_head
        self.attn_dropout = Dropout(dropout)

    def forward(self, x, rng_key=None, starts=None, with_bias=True):
        """x (B, T, C)  ->  (B, T, C). rng_key: of the step, for dropout in training mode. starts
        (B, T): of packed documents. with_bias=False: the bias of `projection` is left to the
        caller, who adds its gradient, too.

        Raises ValueError where dropout needs a key and there is none.
        """
        q, k, v = split_qkv(self.c_attn.forward(x), self.n_head)
        forward, backward = dispatch(q, attention_forward, attention_backward)
        y, saved = forward(q, k, v, starts=starts, **self.attn_dropout.settings(rng_key))
        self.save_for_backward((backward, saved))
        return projected(self.c_proj, merge_heads(y), with_bias)

    @property
    def first_products(self) -> tuple[Linear, ...]:
        """The layers that read x."""
        return (self.c_attn,)

    @property
    def projection(self) -> Linear:
        """The layer that computes the result."""
        return self.c_proj

    def backward(self, dy):
        """dy (B, T, C)  ->  dx (B, T, C); adds to the gradients of the projections.

        RuntimeError without a forward.
        """
        backward, saved = self.take_saved()
        # forward: projected(self.c_proj, merge_heads(y), with_bias)
        dy = split_heads(self.c_proj.backward(dy), self.n_head)  # (B, T, C) -> (B, H, T, D)
        # forward: y, saved = forward(q, k, v, starts=starts, **self.attn_dropout.settings(rng_key))
        B, H, T, D = dy.shape
        dqkv = array_module(dy).empty_like(dy, shape=(B, T, 3 * H * D), order="C")
        backward(dy, saved, out=split_qkv(dqkv, H))
        # forward: q, k, v = split_qkv(self.c_attn.forward(x), self.n_head)
        return self.c_attn.backward(dqkv)

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> y (B, t, C); see Layer.decode."""
        return self.c_proj.decode(self._decoded_heads(x, cache), cache)

    def decode_onto(self, residual, x, cache):
        """residual + decode(x, cache); see Layer.decode_onto."""
        return decoded_onto(residual, self._decoded_heads(x, cache), cache, self.c_proj)

    def _decoded_heads(self, x, cache):
        """x (B, t, C)  ->  y (B, t, H D), what c_proj reads."""
        B, t, _ = x.shape
        qkv = self.c_attn.decode(x, cache)  # (B, t, 3 H D)
        HD = qkv.shape[2] // 3
        if cache.on_device and (kernel := decode_kernel(qkv, HD // self.n_head)) is not None:
            rows = contiguous(qkv.reshape(B * t, 3 * HD))
            q, k, v = (kernel.Heads(rows, i * HD, self.n_head) for i in range(3))
            return attention_by_kernels(kernel, self, q, k, v, HD // self.n_head, cache)
        qkv = (upcast(qkv) if cache.on_device else qkv).reshape(B, t, 3, self.n_head, HD // self.n_head)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # 3 times (B, H, t, D)
        k, v = cache.append(self, k, v)  # (B, H, T, D)
        y = merge_heads(cached_attention(q, k, v, cache.padding_in(k.shape[2])))
        return downcast(y, x) if cache.on_device else y
