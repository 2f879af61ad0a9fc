"""One layer's attention in a real pass: where each token reads, and where the gradient goes.

    p_ij     the share of its attention that token i gives to token j
    dp_ij    dL/dp_ij: negative where the loss falls if i reads more of v_j
    ds_ij    dL/ds_ij, of the score before softmax: negative where a larger score makes the loss fall

attention.py derives dp and ds, and computes them inside of `attend_backward`, which returns dq, dk
and dv. It is called here with inputs for which one of these is the matrix that is looked for:

    dq = ds k / sqrt(D)                    so dq sqrt(D) is ds where k is the unit matrix
    ds = p (dp - sum_d dy_d y_d)           so ds is dp where p is 1 everywhere, and y is 0
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minillm.errors import UserError
from minillm.inspection.observation import Call, Observer
from minillm.inspection.recording import observed_pass
from minillm.layers.attention import AttentionSaved, attend_backward


@dataclass(frozen=True)
class Norms:
    """Of each token's vectors in one head, all (T,); k and v are those that the head reads."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray


@dataclass(frozen=True)
class Pattern:
    """One head. p, dp, ds: (T, T), 0 where token i does not see token j.

    dk and dv of `norms` are those of the key/value head: with grouped heads, sums over its group.
    """

    p: np.ndarray
    dp: np.ndarray
    ds: np.ndarray
    norms: Norms


class LayerAttention:
    """What one pass left of the attention of one layer; B is 1."""

    def __init__(self, layer: str, saved: AttentionSaved):
        self.layer = layer
        self._saved = saved
        self._dy, self._gradients = None, ()

    @property
    def heads(self) -> int:
        return self._saved.q.shape[1]

    @property
    def key_value_heads(self) -> int:
        return self._saved.n_kv_head

    @property
    def window(self) -> int | None:
        """How many tokens a token sees, itself included; None for all before it."""
        return self._saved.window

    @property
    def nbytes(self) -> int:
        """Of what is kept."""
        saved = self._saved
        return sum(array.nbytes for array in (saved.q, saved.k, saved.v, saved.y, self._dy, *self._gradients, *saved.p))

    def set_gradients(self, dy, gradients: tuple) -> None:
        """dy (1, H, T, D), and dq, dk, dv, which attention's backward made of it."""
        self._dy, self._gradients = np.array(dy), tuple(map(np.array, gradients))

    def pattern(self, head: int) -> Pattern:
        """The pattern of one query head, 0 to heads - 1."""
        saved, group = self._saved, head // (self.heads // self.key_value_heads)
        T = saved.q.shape[2]
        p, dp, ds = np.zeros((3, T, T), saved.q.dtype)
        for rows, keys, p_block in self._blocks():
            part = [array[:, head : head + 1] for array in (self._dy, saved.q, saved.v, saved.y, p_block)]
            p[rows, keys] = p_block[0, head]
            dp[rows, keys], ds[rows, keys] = _block_gradients(*part, rows, keys)
        i, j = np.arange(T)[:, None], np.arange(T)
        dp[(j > i) | (j <= i - (self.window or T))] = 0
        vectors = saved.q[0, head], saved.k[0, head], saved.v[0, head]
        gradients = (array[0, place] for array, place in zip(self._gradients, (head, group, group)))
        return Pattern(p, dp, ds, Norms(*(np.linalg.norm(array, axis=-1) for array in (*vectors, *gradients))))

    def _blocks(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Queries and keys of each block of p: causal, so the last key is the last query."""
        start = 0
        for p in self._saved.p:
            stop = start + p.shape[2]
            yield slice(start, stop), slice(stop - p.shape[3], stop), p
            start = stop


def _block_gradients(dy, q, v, y, p, rows: slice, keys: slice) -> tuple[np.ndarray, np.ndarray]:
    """dp and ds of a block of one head, both (t, K)."""
    dy, q, v, y = dy[:, :, rows], q[:, :, rows], v[:, :, keys], y[:, :, rows]
    unit, sqrt_D = np.eye(p.shape[3], dtype=q.dtype)[None, None], math.sqrt(q.shape[3])
    ds, _, _ = attend_backward(dy, q, unit, v, y, p)
    dp, _, _ = attend_backward(dy, q, unit, v, np.zeros_like(y), np.ones_like(p))
    return dp[0, 0] * sqrt_D, ds[0, 0] * sqrt_D


def observe_attention(model, ids, targets) -> list[LayerAttention]:
    """The attention of every layer, in the order of the pass. ids, targets: (1, T).

    Raises UserError where a layer's attention is not that of attention.py in one causal piece.
    """
    watch = _Watch()
    observed_pass(model, ids, targets, watch)
    model.zero_grad()
    return list(watch.found.values())


class _Watch(Observer):
    """Keeps what attention saves for backward, and its gradients."""

    def __init__(self):
        self.found: dict[Call, LayerAttention] = {}
        self._handed: dict[Call, object] = {}

    def after_operation(self, call: Call) -> None:
        if call.operation != "attention":
            return
        if not isinstance(call.saved, AttentionSaved) or not call.saved.causal or call.saved.factor is not None:
            raise UserError(f"{call.layer}: its attention has no pattern that can be shown: it runs as a kernel")
        self.found[call] = LayerAttention(call.layer, call.saved)

    def before_backward(self, call: Call, gradients: tuple, frames) -> None:
        if call in self.found:
            self._handed[call] = np.array(gradients[0])

    def after_backward(self, call: Call, gradients: tuple) -> None:
        if call in self.found:
            self.found[call].set_gradients(self._handed.pop(call), gradients)
