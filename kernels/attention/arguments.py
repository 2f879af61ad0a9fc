"""Shared by the launchers of all attention kernels: the checks of their arguments, and the struct
Dropout.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.kernels.launch import check_array
from minillm.kernels.layout import STEPS, check_rows, heads_in_tokens, place_of, steps

NO_STARTS = np.uint64(0)  # a null pointer: every document begins at token 0
# The struct Dropout of dropout.cuh.
DROPOUT = np.dtype([("key0", "u8"), ("key1", "u8"), ("threshold", "u8"), ("first", "i8"), ("scale", "f4")], align=True)


MATRICES = ("q", "k", "v", "y", "dy", "dq", "dk", "dv")
LAYOUT = np.dtype([(name, STEPS) for name in MATRICES], align=True)  # the struct Layout of layout.cuh


class Problem(NamedTuple):
    """The sizes of one attention, and what else its backward pass needs."""

    B: int
    H: int
    H_kv: int
    T: int
    D: int
    causal: bool
    dropout: tuple  # the fields of the struct Dropout
    starts: Any  # (B, T) int32: the first key that each query sees, or NO_STARTS

    @property
    def scale(self) -> float:
        """1 / sqrt(D)."""
        return 1 / float(np.sqrt(self.D))

    @property
    def drop(self) -> np.void:
        """The struct Dropout, the last argument of every kernel that drops."""
        return np.array(self.dropout, DROPOUT)[()]

    @property
    def last(self) -> tuple:
        """The last arguments of every kernel without the T x T matrix."""
        sizes = (np.int32(self.H), np.int32(self.H_kv), np.int32(self.T))
        return (self.starts, *sizes, np.float32(self.scale), np.int32(self.causal), self.drop)


class FlashSaved(NamedTuple):
    """What the backward of a rung without the T x T matrix needs of its forward."""

    problem: Problem
    q: Any  # (B, H, T, D)
    k: Any  # (B, H_kv, T, D)
    v: Any  # (B, H_kv, T, D)
    y: Any  # (B, H, T, D)
    lse: Any  # (B, H, T): the logarithm of the sum of exp(s) in each row


def check_forward(
    q, k, v, causal, dropout, rng_key, batch_offset, starts, *, dtypes=("float32",), widths=None, views=False
) -> Problem:
    """Raises TypeError or ValueError, naming the argument, unless the kernels can take these
    arrays.

    q (B, H, T, D), k and v (B, H_kv, T, D), H a multiple of H_kv, all of one of `dtypes`. starts
    (B, T) int32: the first key that each query sees, which never decreases along a row; None for
    key 0. widths: the D that there are kernels for, None for all. views: whether the steps between
    tokens, heads and rows of the batch are free (layout.cuh); else the arrays are C-contiguous.
    """
    kernel, ordered = "attention_forward", not views
    dtype = next((name for name in dtypes if name == getattr(q, "dtype", None)), dtypes[0])
    check_array(kernel, "q", q, dtype=dtype, contiguous=ordered)
    if q.ndim != 4:
        raise ValueError(f"{kernel}: q is {q.shape} but has to be (batch, heads, time, width)")
    B, H, T, D = q.shape
    H_kv = k.shape[1] if getattr(k, "ndim", 0) == 4 else 0
    if H_kv < 1 or H % H_kv:
        shape = getattr(k, "shape", type(k).__name__)
        raise ValueError(f"{kernel}: k is {shape} but its heads (axis 1) have to divide the {H} heads of q")
    expected = (B, H_kv, T, D)
    check_array(kernel, "k", k, like=q, shape=expected, dtype=dtype, because=f"q is {q.shape}", contiguous=ordered)
    check_array(kernel, "v", v, like=q, shape=expected, dtype=dtype, because=f"k is {k.shape}", contiguous=ordered)
    if widths is not None and D not in widths:
        advice = ': rung "tiled" takes any' if q.dtype == "float32" else ""
        raise ValueError(f"{kernel}: q has heads of width {D}, the kernel takes {', '.join(map(str, widths))}{advice}")
    for name, array in (("q", q), ("k", k), ("v", v)):
        check_rows(kernel, name, array)
    if starts is None:
        starts = NO_STARTS
    else:
        check_array(kernel, "starts", starts, like=q, shape=(B, T), dtype="int32", because=f"q is {q.shape}")
        if not causal:
            raise ValueError(f"{kernel}: starts without causal: a token of a document sees those before it")
    return Problem(B, H, H_kv, T, D, bool(causal), _dropout(kernel, q, dropout, rng_key, batch_offset), starts)


def check_backward(dy, q, views=False) -> None:
    """Raises unless dy is an array like q (B, H, T, D). views: as for `check_forward`."""
    kernel = "attention_backward"
    because = f"q is {q.shape}"
    check_array(kernel, "dy", dy, like=q, shape=q.shape, dtype=q.dtype, because=because, contiguous=not views)
    check_rows(kernel, "dy", dy)


def room_for_gradients(out, q, k, v) -> tuple:
    """The arrays for dq, dk and dv: those of `out`, or new ones where it is None.

    Raises TypeError or ValueError unless those of `out` can be written for q, k and v.
    """
    if out is None:
        return tuple(heads_in_tokens(x.shape, x) for x in (q, k, v))
    kernel = "attention_backward"
    for name, array, x in zip(("dq", "dk", "dv"), out, (q, k, v)):
        because = f"{name[1:]} is {x.shape}"
        check_array(kernel, name, array, like=x, shape=x.shape, dtype=x.dtype, because=because, contiguous=False)
        check_rows(kernel, name, array)
    return tuple(out)


def layout_of(**arrays) -> np.void:
    """The struct Layout of layout.cuh, of the arrays with these names there; a kernel does not read
    the steps of those that are left out.
    """
    return _layout(tuple((name, *place_of(array)) for name, array in arrays.items()))


@lru_cache(maxsize=256)  # a step of training asks for the same few
def _layout(places) -> np.void:
    layout = np.zeros((), LAYOUT)
    for name, *place in places:
        layout[name] = steps(*place)
    return layout[()]


def _dropout(kernel: str, q, dropout, rng_key, batch_offset) -> tuple:
    """The fields of the struct Dropout. A threshold of 0 is no dropout."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{kernel}: dropout is {dropout}: it must be at least 0 and below 1")
    if dropout and rng_key is None:
        raise ValueError(f"{kernel}: dropout={dropout} needs an rng_key")
    philox_key = stream(*rng_key).philox_key if dropout else np.zeros(2, np.uint64)
    _, H, T, _ = q.shape
    first = batch_offset * H * T * T
    return *philox_key, round(dropout * 2**32), first, 1 / (1 - dropout)
