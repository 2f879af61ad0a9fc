"""Rotary attention: causal self-attention as in Llama, with rotated queries and keys and shared
key/value heads.

    q = rotate(x W_q^T)        k = rotate(x W_k^T)        v = x W_v^T        y = attention(q, k, v) W_o^T

rotary.py has the rotation, attention.py the rest. Several query heads read one key/value head
(Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", 2023): the cache that
generation keeps is smaller by that factor. Members of the family add

    q_norm, k_norm    an RMS norm over each head's D channels before the rotation (Qwen3)
    window            a token sees the last `window` tokens, itself included (Mistral)

Backward is that of the parts in reverse. x is read three times, so its three gradients add up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minillm.backend.arrays import array_module, contiguous, device_of, to_device
from minillm.backend.precision import downcast, upcast
from minillm.kernels import dispatch
from minillm.layers.attention import attention_backward, attention_forward, merge_heads
from minillm.layers.cached_attention import cached_attention
from minillm.layers.decoding import attention_by_kernels, decode_kernel, decoded_onto
from minillm.layers.dropout import Dropout
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear, backward_onto, projected
from minillm.layers.packed_linear import decoded_each, packed_linear
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary import rotary_backward, rotary_forward, rotary_tables, rotate_tokens
from minillm.layers.rotary_scaling import RotaryScaling


class RotaryPositions:
    """The tables of cos and sin that all layers of a model share.

    They grow when longer texts come, and are made anew where a scaling has other angles for texts
    of another length: then only those of the last length are kept.
    """

    def __init__(self, head_dim: int, base: float = 10000.0, scaling: RotaryScaling | None = None, interleaved=False):
        self.head_dim, self.base, self.scaling, self.interleaved = head_dim, base, scaling, interleaved
        self._tables = {}  # (dtype, device) -> stage of the scaling, (cos, sin)
        self._token_tables = {}  # the same for `tables_for_tokens`

    @property
    def depend_on_length(self) -> bool:
        """Whether the angles depend on the length of the text."""
        return self.scaling is not None and self.scaling.depends_on_length

    def stage(self, length: int):
        """Texts whose lengths are of the same stage have the same angles (rotary_scaling.py)."""
        return 0 if self.scaling is None else self.scaling.stage(length)

    def tables(self, T: int, like):
        """cos and sin (T, D/2) for a text of T positions, of the dtype and on the device of
        `like`.
        """
        cos, sin = self._grown(T, like)
        return cos[:T], sin[:T]

    def tables_for_tokens(self, cache, like):
        """cos and sin as `rotate_tokens` takes them, for the new columns of a cache.

        They are made once for all layers of a pass.
        """
        if self not in cache.shared:
            cache.shared[self] = self._tables_at(cache, like)
        return cache.shared[self]

    def tables_for_kernel(self, cache, like):
        """(cos and sin (rows, D/2), by_token) as kernels/attention/decode.py takes them: with a row
        for each position of the texts, or by_token, one for each new token.

        They are made once for all layers of a pass.
        """
        key = self, "kernel"
        if key not in cache.shared:
            by_token = self.depend_on_length and cache.padding is not None  # each has the angles of its own text
            tables = self._rows_at(cache, like) if by_token else None
            # one row more, so that the next pass can be recorded: nothing is copied there
            tables = tables or self._grown(cache.length + cache.count, like, spare=0 if cache.is_recorded else 1)
            cache.shared[key] = tables, by_token
            if not by_token:
                cache.limit = min(cache.limit, len(tables[0]))
        return cache.shared[key]

    def _rows_at(self, cache, like):
        rows = [
            [table[at] for table in self._grown(length, like)]
            for length, at in zip(cache.lengths_of_rows(), cache.positions())
        ]
        return tuple(array_module(like).concatenate(each) for each in zip(*rows))

    def _grown(self, T: int, like, spare: int = 0):
        """cos and sin for a text of T positions, of at least so many rows and `spare`."""
        key, stage = (np.dtype(like.dtype).name, device_of(like)), self.stage(T)
        found, tables = self._tables.get(key, (None, None))
        if tables is None or found != stage or len(tables[0]) < T + spare:
            rows = 1 << (T + spare - 1).bit_length()
            tables = rotary_tables(rows, self.head_dim, self.base, key[0], self.scaling, T)
            tables = tuple(to_device(table, key[1]) for table in tables)
            self._tables[key] = stage, tables
        return tables

    def _tables_at(self, cache, like):
        T = cache.length + cache.count
        if cache.padding is None:
            return tuple(table[cache.length : T] for table in self._grown_for_tokens(T, like))
        if not self.depend_on_length:
            return tuple(table[cache.positions()] for table in self._grown_for_tokens(T, like))
        rows = zip(cache.lengths_of_rows(), cache.positions())  # each has the angles of its own text
        tables = [[table[at] for table in self._grown_for_tokens(length, like)] for length, at in rows]
        return tuple(array_module(like).stack(each) for each in zip(*tables))

    def _grown_for_tokens(self, T: int, like):
        key, stage = (np.dtype(like.dtype).name, device_of(like), self.interleaved), self.stage(T)
        found, tables = self._token_tables.get(key, (None, None))
        if tables is None or found != stage or len(tables[0]) < T:
            xp, axis = array_module(like), -1 if self.interleaved else -2  # where the two of a pair are
            cos, sin = (table[:, None] for table in self._grown(T, like))  # (rows, 1, D/2)
            # (rows, 1, 2, D/2) or, if interleaved, (rows, 1, D/2, 2)
            tables = xp.stack([cos, cos], axis), xp.stack([-sin, sin], axis)
            self._token_tables[key] = stage, tables
        return tables


def cut_heads(x, D):
    """(B, T, H D) -> (B, T, H, D), a view: each head's D channels are a row, as norms take them."""
    return x.reshape(*x.shape[:2], -1, D)


def joined_heads(x):
    """(B, T, H, D) -> (B, T, H D), a view: the inverse of `cut_heads`."""
    return x.reshape(*x.shape[:2], -1)


def heads_apart(x, n_head):
    """(B, T, H D) or (B, T, H, D)  ->  (B, H, T, D): for kernels, which take steps, a view; on the
    CPU a copy, as products are faster where the rows of a head lie side by side.
    """
    heads = x.reshape(*x.shape[:2], n_head, -1).transpose(0, 2, 1, 3)
    return contiguous(heads) if device_of(x) == "cpu" else heads


class RotaryAttentionSaved(NamedTuple):
    """What backward needs of forward: two functions, and what each was given to keep."""

    rotate_backward: Any
    q: tuple  # of the rotation of q
    k: tuple  # of the rotation of k
    backward: Any
    attention: tuple


class RotarySelfAttention(Layer):
    """x (B, T, C) -> y (B, T, C).

    Weights are stored as (out, in).
    """

    def __init__(
        self,
        q_proj: Linear,
        k_proj: Linear,
        v_proj: Linear,
        o_proj: Linear,
        n_head: int,
        n_kv_head: int,
        positions: RotaryPositions,
        dropout: float = 0.0,
        window: int | None = None,
        q_norm: RMSNorm | None = None,
        k_norm: RMSNorm | None = None,
    ):
        """q_proj: C -> H D; k_proj and v_proj: C -> H_kv D; o_proj: H D -> C. n_head H is a
        multiple of n_kv_head H_kv.

        dropout: of attention probabilities. q_norm, k_norm: of width D.
        """
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = q_proj, k_proj, v_proj, o_proj
        self.q_norm, self.k_norm = q_norm, k_norm
        self.n_head, self.n_kv_head = n_head, n_kv_head
        self.positions, self.window = positions, window
        self.attn_dropout = Dropout(dropout)

    def forward(self, x, rng_key=None, starts=None, with_bias=True):
        """x (B, T, C)  ->  (B, T, C). rng_key: of the step, for dropout in training mode. starts
        (B, T): of packed documents, whose positions need not begin at 0 (rotary.py).
        with_bias=False: the bias of `projection` is left to the caller, who adds its gradient, too.

        Raises ValueError where dropout needs a key and there is none.
        """
        T = x.shape[1]
        q = self.q_proj.forward(x)
        k = self.k_proj.forward(x)
        v = self.v_proj.forward(x)
        if self.q_norm is not None:
            D = q.shape[2] // self.n_head
            q, k = self.q_norm.forward(cut_heads(q, D)), self.k_norm.forward(cut_heads(k, D))
        q = heads_apart(q, self.n_head)
        k = heads_apart(k, self.n_kv_head)
        v = heads_apart(v, self.n_kv_head)
        rotate, rotate_backward = dispatch(q, rotary_forward, rotary_backward)
        cos, sin = self.positions.tables(T, self.q_proj.weight.peek())  # of the weights' dtype, as angles need it
        q, saved_q = rotate(q, cos, sin, self.positions.interleaved)
        k, saved_k = rotate(k, cos, sin, self.positions.interleaved)
        settings = self.attn_dropout.settings(rng_key) | {"starts": starts}
        if self.window is not None and self.window < T:
            settings["window"] = self.window
        forward, backward = dispatch(q, attention_forward, attention_backward)
        y, saved = forward(q, k, v, causal=True, **settings)
        self.save_for_backward(RotaryAttentionSaved(rotate_backward, saved_q, saved_k, backward, saved))
        return projected(self.o_proj, merge_heads(y), with_bias)

    @property
    def first_products(self) -> tuple[Linear, ...]:
        """The layers that read x."""
        return self.q_proj, self.k_proj, self.v_proj

    @property
    def projection(self) -> Linear:
        """The layer that computes the result."""
        return self.o_proj

    def backward(self, dy):
        """dy (B, T, C)  ->  dx (B, T, C); adds to the gradients of the weights.

        RuntimeError without a forward.
        """
        rotate_backward, saved_q, saved_k, backward, saved = self.take_saved()
        # forward: projected(self.o_proj, merge_heads(y), with_bias)
        dy = heads_apart(self.o_proj.backward(dy), self.n_head)
        # forward: y, saved = forward(q, k, v, causal=True, **settings)
        dq, dk, dv = backward(dy, saved)
        # forward: q, saved_q = rotate(q, cos, sin, self.positions.interleaved)
        dq = merge_heads(rotate_backward(dq, saved_q))
        # forward: k, saved_k = rotate(k, cos, sin, self.positions.interleaved)
        dk = merge_heads(rotate_backward(dk, saved_k))
        # forward: q, k = self.q_norm.forward(cut_heads(q, D)), self.k_norm.forward(cut_heads(k, D))
        if self.q_norm is not None:
            D = dy.shape[3]
            dq, dk = self.q_norm.backward(cut_heads(dq, D)), self.k_norm.backward(cut_heads(dk, D))
            dq, dk = joined_heads(dq), joined_heads(dk)
        # forward: q = self.q_proj.forward(x)
        dx = self.q_proj.backward(dq)
        # forward: self.k_proj.forward(x): the same x, and the gradients add up
        dx = backward_onto(self.k_proj, dk, dx)
        # forward: self.v_proj.forward(x)
        return backward_onto(self.v_proj, merge_heads(dv), dx)

    def decode(self, x, cache):
        """The new tokens x (B, t, C) -> y (B, t, C); see Layer.decode."""
        return self.o_proj.decode(self._decoded_heads(x, cache), cache)

    def decode_onto(self, residual, x, cache):
        """residual + decode(x, cache); see Layer.decode_onto."""
        return decoded_onto(residual, self._decoded_heads(x, cache), cache, self.o_proj)

    def _decoded_heads(self, x, cache):
        """x (B, t, C)  ->  y (B, t, H D), what o_proj reads."""
        B, t, _ = x.shape
        H, H_kv = self.n_head, self.n_kv_head
        if cache.on_device and (kernel := decode_kernel(x, self.positions.head_dim)) is not None:
            return self._decoded_heads_by_kernels(kernel, x, cache)
        qkv = packed_linear(x, (self.q_proj, self.k_proj, self.v_proj), cache)
        qkv = (upcast(qkv) if cache.on_device else qkv).reshape(B, t, H + 2 * H_kv, -1)
        if self.q_norm is not None:
            qkv[:, :, :H] = self.q_norm.decode(qkv[:, :, :H], cache)
        if self.k_norm is not None:
            qkv[:, :, H : H + H_kv] = self.k_norm.decode(qkv[:, :, H : H + H_kv], cache)
        cos, sin = self.positions.tables_for_tokens(cache, self.q_proj.weight.peek())
        qk = rotate_tokens(qkv[:, :, : H + H_kv], cos, sin, self.positions.interleaved).swapaxes(1, 2)
        q, k, v = qk[:, :H], qk[:, H:], qkv[:, :, H + H_kv :].swapaxes(1, 2)  # (B, H, t, D), twice (B, H_kv, t, D)
        k, v = cache.append(self, k, v, window=self.window)  # (B, H_kv, T, D)
        y = merge_heads(cached_attention(q, k, v, cache.padding_in(k.shape[2]), self.window))
        return downcast(y, x) if cache.on_device else y

    def _decoded_heads_by_kernels(self, kernel, x, cache):
        (B, t, _), D = x.shape, self.positions.head_dim
        q, k, v = decoded_each(x, (self.q_proj, self.k_proj, self.v_proj), cache)
        if self.q_norm is not None:
            q = self.q_norm.decode(q.reshape(B, t, self.n_head, D), cache)
        if self.k_norm is not None:
            k = self.k_norm.decode(k.reshape(B, t, self.n_kv_head, D), cache)
        heads = [
            kernel.Heads(contiguous(part.reshape(B * t, -1)), 0, count)
            for part, count in ((q, self.n_head), (k, self.n_kv_head), (v, self.n_kv_head))
        ]
        tables, by_token = self.positions.tables_for_kernel(cache, self.q_proj.weight.peek())
        rotation = dict(tables=tables, by_token=by_token, interleaved=self.positions.interleaved)
        return attention_by_kernels(kernel, self, *heads, D, cache, self.window, **rotation)
