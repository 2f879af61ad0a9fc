"""Rotary attention: causal self-attention as in Llama, with turned queries and keys and shared key/value heads.

    q = turn(x W_q^T)        k = turn(x W_k^T)        v = x W_v^T        y = attention(q, k, v) W_o^T

rotary.py has the turning, attention.py the rest. Several query heads read one key/value head (Ainslie et al., "GQA:
Training Generalized Multi-Query Transformer Models", 2023): the cache that generation keeps is smaller by that factor.

Backward is that of the parts in reverse. The token took part three times, so its three gradients add up.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module, contiguous, device_of, to_device
from minillm.kernels import dispatch
from minillm.layers.attention import attention_backward, attention_forward, merge_heads
from minillm.layers.cached_attention import cached_attention
from minillm.layers.dropout import Dropout
from minillm.layers.layer import Layer
from minillm.layers.linear import Linear
from minillm.layers.packed_linear import packed_linear
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary import Llama3Scaling, rotary_backward, rotary_forward, rotary_tables, rotate_tokens


class RotaryPositions:
    """The tables of cos and sin that all layers of a model share. They grow when longer texts come."""

    def __init__(self, width: int, base: float = 10000.0, scaling: Llama3Scaling | None = None, interleaved=False):
        self.width, self.base, self.scaling, self.interleaved = width, base, scaling, interleaved
        self._tables = {}  # (dtype, device) -> cos, sin
        self._token_tables = {}  # the same for `tables_for_tokens`

    def tables(self, time: int, like):
        """cos and sin (T, D/2) for the first `time` positions, of the dtype and on the device of `like`."""
        key = (np.dtype(like.dtype).name, device_of(like))
        tables = self._tables.get(key)
        if tables is None or len(tables[0]) < time:
            grown = 1 << (time - 1).bit_length()
            tables = rotary_tables(grown, self.width, self.base, key[0], self.scaling)
            tables = self._tables[key] = tuple(to_device(table, key[1]) for table in tables)
        cos, sin = tables
        return cos[:time], sin[:time]

    def tables_for_tokens(self, cache, like):
        """cos and sin as `rotate_tokens` takes them, for the new columns of a cache.

        They are made once for all layers of a pass.
        """
        if self not in cache.shared:
            cache.shared[self] = self._tables_at(cache, like)
        return cache.shared[self]

    def _tables_at(self, cache, like):
        time = cache.length + cache.count
        key = (np.dtype(like.dtype).name, device_of(like), self.interleaved)
        tables = self._token_tables.get(key)
        if tables is None or tables[0].shape[0] < time:
            grown = 1 << (time - 1).bit_length()
            xp, axis = array_module(like), -1 if self.interleaved else -2  # where the two of a pair are
            cos, sin = (table[:, None] for table in self.tables(grown, like))  # (T, 1, D/2)
            tables = xp.stack([cos, cos], axis), xp.stack([-sin, sin], axis)  # (T, 1, 2, D/2)
            self._token_tables[key] = tables
        at = slice(cache.length, time) if cache.padding is None else cache.positions()
        return tables[0][at], tables[1][at]


class RotarySelfAttention(Layer):
    """x (B, T, C) -> y (B, T, C). Weights are stored as (out, in): q (H D, C), k and v (H_kv D, C), o (C, H D)."""

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
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = q_proj, k_proj, v_proj, o_proj
        self.n_head, self.n_kv_head = n_head, n_kv_head
        self.positions = positions
        self.attn_dropout = Dropout(dropout)
        self.window, self.q_norm, self.k_norm = window, q_norm, k_norm

    def forward(self, x, rng_key=None):
        batch, time, _ = x.shape
        q = _heads(self.q_proj.forward(x), self.n_head)  # (B, T, H D) -> (B, H, T, D)
        k = _heads(self.k_proj.forward(x), self.n_kv_head)
        v = _heads(self.v_proj.forward(x), self.n_kv_head)
        turn, turn_back = dispatch(q, rotary_forward, rotary_backward)
        attend, attend_backward = dispatch(q, attention_forward, attention_backward)
        cos, sin = self.positions.tables(time, self.q_proj.weight.value)  # of the weights' dtype, as angles need it
        q, saved_q = turn(q, cos, sin, self.positions.interleaved)
        k, saved_k = turn(k, cos, sin, self.positions.interleaved)
        drop = self.attn_dropout
        dropping = (
            dict(dropout=drop.p, rng_key=drop.layer_key(rng_key), batch_offset=drop.batch_offset)
            if self.training and drop.p
            else {}
        )
        y, saved = attend(q, k, v, causal=True, **dropping)
        self.save_for_backward((turn_back, saved_q, saved_k, attend_backward, saved))
        return self.o_proj.forward(_side_by_side(y))

    def backward(self, dy):
        turn_back, saved_q, saved_k, attend_backward, saved = self.take_saved()
        # forward: out = o_proj(y)
        dy = _heads(self.o_proj.backward(dy), self.n_head)
        # forward: y = attention(q, k, v)
        dq, dk, dv = attend_backward(dy, saved)
        # forward: q = turn(q_proj(x)), k = turn(k_proj(x)), v = v_proj(x), the same x in all three
        dx = self.q_proj.backward(_side_by_side(turn_back(contiguous(dq), saved_q)))
        dx += self.k_proj.backward(_side_by_side(turn_back(contiguous(dk), saved_k)))
        dx += self.v_proj.backward(_side_by_side(dv))
        return dx

    def decode(self, x, cache):
        B, t, _ = x.shape
        H, H_kv = self.n_head, self.n_kv_head
        qkv = packed_linear(x, (self.q_proj, self.k_proj, self.v_proj), cache)
        qkv = qkv.reshape(B, t, H + 2 * H_kv, -1)
        if self.q_norm is not None:
            qkv[:, :, :H] = self.q_norm.decode(qkv[:, :, :H], cache)
        if self.k_norm is not None:
            qkv[:, :, H : H + H_kv] = self.k_norm.decode(qkv[:, :, H : H + H_kv], cache)
        cos, sin = self.positions.tables_for_tokens(cache, self.q_proj.weight.value)
        qk = rotate_tokens(qkv[:, :, : H + H_kv], cos, sin, self.positions.interleaved).swapaxes(1, 2)
        q, k, v = qk[:, :H], qk[:, H:], qkv[:, :, H + H_kv :].swapaxes(1, 2)  # (B, H, t, D), twice (B, H_kv, t, D)
        k, v = cache.append(self, k, v, window=self.window)  # (B, H_kv, T, D)
        y = cached_attention(q, k, v, cache.padding_in(k.shape[2]), self.window)
        return self.o_proj.decode(merge_heads(y), cache)


def _heads(x, n_head):
    """(B, T, H D) -> (B, H, T, D), a contiguous copy: the rotary kernel and the products of attention want one."""
    batch, time, width = x.shape
    return contiguous(x.reshape(batch, time, n_head, width // n_head).transpose(0, 2, 1, 3))


def _side_by_side(y):
    """(B, H, T, D) -> (B, T, H D): the inverse of `_heads`."""
    batch, n_head, time, width = y.shape
    return y.transpose(0, 2, 1, 3).reshape(batch, time, n_head * width)
