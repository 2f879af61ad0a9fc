"""Launcher of decode.cu: attention of new tokens over a cache, on "cuda" and "cudasim".

append(q, k, v, keys, values, place, ...)      k and v of the new tokens go into the cache
decode_attention(q, keys, values, place, ...)  the new tokens' queries over all columns that they see
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minillm.kernels.launch import FLOATS, NUMBERS, CudaFile, ResourceLimit, blocks_for, c_type, check_array, empty

KEYS = 128  # that a block takes at a time; its threads
ENOUGH_BLOCKS = 1024  # keys are split among no more: a GPU has about a hundred processors
MAX_WIDTH = 256  # of a head
NONE = np.uint64(0)  # a null pointer

INSTANCES = {}
for _number in NUMBERS.values():
    INSTANCES[f"append<{_number}>"] = ResourceLimit(registers=64)
    INSTANCES[f"merge<{_number}>"] = ResourceLimit(registers=40)
    for _wide in ("false", "true"):
        INSTANCES[f"attend<{_number}, {_wide}>"] = ResourceLimit(64, shared=4 * (2 * MAX_WIDTH + KEYS + 32))
CUDA = CudaFile(__file__, "decode.cu", INSTANCES, constants={"KEYS": KEYS, "MAX_WIDTH": MAX_WIDTH})


class Heads(NamedTuple):
    """q, k or v of B t tokens: the columns of a matrix in which their heads lie side by side."""

    matrix: Any  # (B t, W), C-contiguous
    first: int  # the column where the first head begins
    count: int  # of heads


def takes(width: int) -> bool:
    """Whether there are kernels for heads of a width D."""
    return width % 2 == 0 and width <= MAX_WIDTH


def append(q, k, v, keys, values, place, first=0, padding=None, tables=None, interleaved=False, by_token=False):
    """Write k and v of the new tokens into a cache, k rotated; returns q as Heads, rotated.

    q (H heads), k and v (H_kv heads): Heads of B t tokens, t side by side for each row of the
    batch. keys and values (B, H_kv, capacity, D): column c of the text is at c - first. place (1,)
    int64: the column of the first new token. padding (B,) int64: how many columns at the start of
    each row are none; they become zeros. tables: cos and sin (rows, D/2) float32, a row for each
    position, or by_token (B t, D/2), one for each new token; None: nothing is rotated, and q is
    returned as it is. interleaved: see rotary.py. Raises TypeError or ValueError for other arrays.
    """
    B, H_kv, capacity, D = _check_cache("append", keys, values)
    for name, heads in (("q", q), ("k", k), ("v", v)):
        _check_heads("append", name, heads, keys)
    tokens = len(q.matrix)
    _check_place("append", place, padding, keys)
    rotated, (cos, sin) = q, tables or (NONE, NONE)
    if tables is not None:
        for name, table in (("cos", cos), ("sin", sin)):
            check_array("append", name, table, like=keys, shape=(len(cos), D // 2), because=f"keys are {keys.shape}")
        rotated = Heads(empty((tokens, q.count * D), keys, keys.dtype), 0, q.count)
    numbers = (tokens // B, H_kv, q.count, D // 2, *_places(q), *_places(k), *_places(v))
    sizes = (*map(np.int32, numbers), np.int64(first), np.int32(capacity))
    arrays = (q.matrix, k.matrix, v.matrix, rotated.matrix, keys, values, cos, sin, place, _or_none(padding))
    grid = (tokens, 2 * H_kv + (0 if tables is None else q.count))
    arguments = (*arrays, *sizes, np.int32(interleaved), np.int32(by_token))
    CUDA.launch(f"append<{c_type(keys)}>", grid, (32 * blocks_for(D // 2, 32),), arguments)
    return rotated


def decode_attention(q, keys, values, place, first=0, padding=None, window=None):
    """Heads q of the B t new tokens  ->  y (B t, H D)

    keys, values (B, H_kv, capacity, D), place, first, padding: as for `append`, which has put the
    new tokens there. window: how many columns a token sees, itself included; None for all. Raises
    TypeError or ValueError for other arrays.
    """
    B, H_kv, capacity, D = _check_cache("decode_attention", keys, values)
    _check_heads("decode_attention", "q", q, keys)
    _check_place("decode_attention", place, padding, keys)
    H, tokens = q.count, len(q.matrix)
    if H % H_kv:
        raise ValueError(f"decode_attention: {H} heads of q are not a multiple of the {H_kv} of the keys")
    y, rows = empty((tokens, H * D), keys, keys.dtype), tokens * H
    parts = blocks_for(capacity, KEYS, max(1, ENOUGH_BLOCKS // rows))
    sums, statistics = empty((parts, rows, D) if parts > 1 else (1,), keys), empty((parts, rows, 2), keys)
    sizes = (*map(np.int32, (tokens // B, H_kv, H, D, *_places(q))), np.int64(first), np.int32(capacity))
    arrays = (q.matrix, keys, values, y, sums, statistics, place, _or_none(padding))
    kernel = f"attend<{c_type(keys)}, {'true' if D * keys.itemsize % 16 == 0 else 'false'}>"
    scale = np.float32(1 / math.sqrt(D))
    CUDA.launch(kernel, (rows, parts), (KEYS,), (*arrays, *sizes, np.int32(window or 0), scale))
    if parts > 1:
        arguments = (sums, statistics, y, np.int32(parts), np.int32(D))
        CUDA.launch(f"merge<{c_type(keys)}>", (rows,), (32 * blocks_for(D, 32),), arguments)
    return y


def _check_cache(kernel: str, keys, values) -> tuple[int, int, int, int]:
    check_array(kernel, "keys", keys, dtype=FLOATS)
    if keys.ndim != 4 or not takes(keys.shape[3]) or not keys.size:
        raise ValueError(
            f"{kernel}: keys are {keys.shape} but have to be (B, H_kv, capacity, D), D even, at most {MAX_WIDTH}"
        )
    check_array(
        kernel, "values", values, like=keys, shape=keys.shape, dtype=keys.dtype, because=f"keys are {keys.shape}"
    )
    return keys.shape


def _check_heads(kernel: str, name: str, heads: Heads, keys) -> None:
    B, _, _, D = keys.shape
    check_array(kernel, name, heads.matrix, like=keys, dtype=keys.dtype)
    shape = heads.matrix.shape
    if len(shape) != 2 or not shape[0] or shape[0] % B or heads.first + heads.count * D > shape[1]:
        raise ValueError(
            f"{kernel}: {name} is {shape} but has to have rows for {B} times as many tokens, with {heads.count} heads of {D} "
            f"numbers from column {heads.first} on"
        )


def _check_place(kernel: str, place, padding, keys) -> None:
    check_array(kernel, "place", place, like=keys, shape=(1,), dtype="int64")
    if padding is not None:
        shape, because = (len(keys),), f"keys are {keys.shape}"
        check_array(kernel, "padding", padding, like=keys, shape=shape, dtype="int64", because=because)


def _places(heads: Heads) -> tuple[int, int]:
    """Where the first head of the first token begins, and how far it is to the next token."""
    return heads.first, heads.matrix.shape[1]


def _or_none(array):
    return NONE if array is None else array
