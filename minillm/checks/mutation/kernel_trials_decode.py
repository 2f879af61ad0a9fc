"""Trials of attention over a cache, kernels/attention/decode.cu, beside the layers' functions in
float64.
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import bfloat16
from minillm.checks.mutation.kernel_trial import DEVICE, Trial
from minillm.kernels.attention import decode
from minillm.kernels.attention.decode import KEYS, Heads
from minillm.layers.cached_attention import cached_attention
from minillm.layers.rotary import rotary_forward, rotary_tables

NAMES = ("y", "keys", "values")
LIMITS = {"float32": (1e-5,) * 3, "bfloat16": (1.2e-2, 4.1e-3, 4.1e-3)}  # q and k are rounded before they meet


class Decoding(NamedTuple):
    """New tokens over a cache.

    size: B, H, H_kv, t, D. before: columns before the new ones. padding: (B,) or None. interleaved:
    None where nothing is rotated. by_token: a row of the tables for each new token. first: the
    column of the cache's first row; those before it are cut off. peaks: for each row of the batch a
    column whose key is that of the query, so that beside it the others vanish. blocks: the limit by
    which the keys of a query are split, decode.ENOUGH_BLOCKS.
    """

    size: tuple[int, int, int, int, int]
    before: int
    capacity: int
    padding: tuple[int, ...] | None = None
    window: int | None = None
    interleaved: bool | None = None
    by_token: bool = False
    first: int = 0
    peaks: tuple[int, ...] | None = None
    blocks: int = decode.ENOUGH_BLOCKS

    def __str__(self) -> str:
        return "-".join(map(str, ("x".join(map(str, self.size)), *self[1:])))


PROBLEMS = (
    Decoding((1, 2, 2, 1, 8), 0, 4),
    Decoding((1, 4, 2, 1, 32), 5, 6, interleaved=False),
    Decoding((2, 2, 1, 1, 6), 3 * KEYS - 1, 3 * KEYS, (0, 140), interleaved=False),
    Decoding((2, 2, 2, 3, 6), 7, 20, (3, 9), interleaved=True),
    Decoding((1, 2, 1, 1, 64), 200, 300, window=40, interleaved=False, first=30),
    Decoding((2, 2, 1, 3, 20), 130, 2 * KEYS, (0, 131), 9, True, by_token=True),
    Decoding((1, 1, 1, 2, 256), 130, 140),
    Decoding((1, 1, 1, 1, 80), 130, 150, interleaved=True),
    Decoding((1, 13, 13, 10, 2), 0, 12),  # more queries than a block has threads
    Decoding((3, 1, 1, 1, 6), 127, 128, peaks=(40, 70, 100)),
    Decoding((4, 1, 1, 1, 6), 3 * KEYS - 1, 3 * KEYS, peaks=(1, 40, 200, 300)),
    Decoding((3, 1, 1, 1, 6), 4 * KEYS + 3, 5 * KEYS, (0, 3, 140), blocks=6),
    Decoding((3, 1, 1, 1, 6), 3 * KEYS - 1, 3 * KEYS, peaks=(40, 200, 300), blocks=1),
)
BEFORE_Q = 1  # heads' widths of numbers that belong to others


def decoded() -> list[Trial]:
    """All problems in both dtypes."""
    return [_trial(problem, dtype) for dtype, problem in product(LIMITS, PROBLEMS)]


def _trial(problem: Decoding, dtype: str) -> Trial:
    limits = dict(zip(NAMES, LIMITS[dtype]))
    return Trial(
        f"{problem}, {dtype}",
        lambda: dict(zip(NAMES, by_the_kernel(problem, dtype))),
        lambda: dict(zip(NAMES, by_the_layers(problem, dtype))),
        lambda name: limits[name],
    )


def inputs(problem: Decoding, dtype: str) -> SimpleNamespace:
    """q, k, v of the new tokens, side by side in one matrix; k and v of those before, rotated."""
    (B, H, H_kv, t, D), before, capacity, padding = problem[:4]
    rng = np.random.default_rng(before + D)

    def numbers(*shape):
        return rng.normal(size=shape).astype(bfloat16() if dtype == "bfloat16" else dtype)

    tables = None if problem.interleaved is None else rotary_tables(before + t + 3, D)
    if tables and problem.by_token:
        tables = tuple(np.concatenate([table[at] for at in positions(problem)]) for table in tables)
    qkv, keys = numbers(B * t, (BEFORE_Q + H + 2 * H_kv) * D), numbers(B, H_kv, capacity, D)
    for b, column in enumerate(problem.peaks or ()):
        q = qkv[b, BEFORE_Q * D :][:D].astype(np.float64)
        keys[b, 0, column] = 120 * np.sqrt(D) * q / (q @ q)
    return SimpleNamespace(
        qkv=qkv,
        keys=keys,
        values=numbers(B, H_kv, capacity, D),
        place=np.array([before]),
        padding=None if padding is None else np.array(padding),
        tables=tables,
    )


def positions(problem: Decoding) -> np.ndarray:
    """(B, t): of the new tokens in their texts."""
    B, t = problem.size[0], problem.size[3]
    columns = np.arange(problem.before, problem.before + t)
    return np.maximum(columns - np.reshape(problem.padding or [0] * B, (B, 1)), 0)


def by_the_layers(problem: Decoding, dtype: str):
    """y (B t, H D), and the cache after it, by the layers' functions in float64."""
    (B, H, H_kv, t, D), before = problem[:2]
    a = inputs(problem, dtype)
    x = a.qkv.astype(np.float64).reshape(B, t, -1, D).swapaxes(1, 2)[:, BEFORE_Q:]
    q, k, v = x[:, :H], x[:, H : H + H_kv], x[:, H + H_kv :]
    hidden = np.zeros(B, int) if a.padding is None else a.padding
    columns = np.arange(before, before + t)
    if problem.interleaved is not None:
        tables = rotary_tables(before + t + 3, D)
        for b, at in enumerate(positions(problem)):
            cos, sin = (table[at].astype(np.float64) for table in tables)
            q[b : b + 1], _ = rotary_forward(q[b : b + 1], cos, sin, problem.interleaved)
            k[b : b + 1], _ = rotary_forward(k[b : b + 1], cos, sin, problem.interleaved)
    none = (columns < hidden[:, None])[:, None, :, None]
    keys, values = a.keys.astype(np.float64), a.values.astype(np.float64)
    keys[:, :, before : before + t] = np.where(none, 0, k)
    values[:, :, before : before + t] = np.where(none, 0, v)
    seen = slice(0, before + t)
    y = cached_attention(q, keys[:, :, seen], values[:, :, seen], a.padding, problem.window)
    return y.swapaxes(1, 2).reshape(B * t, H * D), keys[:, :, problem.first :], values[:, :, problem.first :]


def by_the_kernel(problem: Decoding, dtype: str, device: str = DEVICE):
    """The same by the kernels."""
    (_, H, H_kv, _, D), first = problem.size, problem.first
    a = inputs(problem, dtype)
    tables = a.tables and tuple(to_device(table, device) for table in a.tables)
    a = {name: to_device(x, device) for name, x in vars(a).items() if x is not None and name != "tables"}
    keys, values = (a[name][:, :, first:].copy() for name in ("keys", "values"))
    places = ((0, H), (H, H_kv), (H + H_kv, H_kv))
    q, k, v = (Heads(a["qkv"], (BEFORE_Q + start) * D, count) for start, count in places)
    settings = dict(place=a["place"], first=first, padding=a.get("padding"))
    rotation = dict(tables=tables, interleaved=bool(problem.interleaved), by_token=problem.by_token)
    q = decode.append(q, k, v, keys, values, **rotation, **settings)
    limit = decode.ENOUGH_BLOCKS
    decode.ENOUGH_BLOCKS = problem.blocks
    try:
        y = decode.decode_attention(q, keys, values, window=problem.window, **settings)
    finally:
        decode.ENOUGH_BLOCKS = limit
    return tuple(map(to_host, (y, keys, values)))
