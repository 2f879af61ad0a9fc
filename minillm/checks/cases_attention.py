"""The cases of attention, its CUDA rungs, the layers around it, and rotary embedding."""

from __future__ import annotations

from itertools import product

import numpy as np

from minillm.checks.case import KEY, Case, Kernel, at
from minillm.kernels import RUNGS
from minillm.layers.attention import first_keys
from minillm.layers.documents import packed_starts
from minillm.layers.linear import Linear
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary import rotary_tables
from minillm.layers.rotary_attention import RotaryPositions
from minillm.layers.rotary_scaling import YarnScaling


def rotary_inputs(rng, B, H, T, D, interleaved=False, scaling=None):
    cos, sin = rotary_tables(T, D, dtype="float64", scaling=scaling)
    x, dy = rng.normal(size=(2, B, H, T, D))
    return dict(x=x, dy=dy, cos=cos, sin=sin, interleaved=interleaved)


ROTARY = Case(
    "rotary",
    inputs=rotary_inputs,
    forward=lambda op, a: op.rotary_forward(a.x, a.cos, a.sin, a.interleaved),
    backward=lambda op, a, saved: op.rotary_backward(a.dy, saved),
    differentiated=("x",),
    low_precision=("x", "dy"),
    kernel=(Kernel("rotary", "minillm.kernels.rotary", "queries and keys rotated by their position"),),
    dimensions=("batch", "heads", "time", "width"),
    gradcheck=[
        at(2, 2, 5, 6, label="halves"),
        at(2, 2, 5, 6, label="interleaved", interleaved=True),
        at(2, 2, 5, 6, label="scaled with an amplitude", scaling=YarnScaling(8.0, 3)),
    ],
    kernels=[
        *(
            at(*size, interleaved=interleaved)
            for size in ((1, 1, 1, 2), (2, 3, 5, 6), (1, 2, 65, 64), (3, 1, 33, 96))
            for interleaved in (False, True)
        ),
        at(2, 3, 5, 6, scaling=YarnScaling(8.0, 3)),
    ],
    simulate=(1, 2, 64, 64),
    benchmark=[at(4, 12, 1024, 64), at(4, 32, 2048, 128)],
)


def attention_inputs(
    rng, B, H, H_kv, T, D, causal=True, dropout=0.0, batch_offset=0, window=None, documents=(), seen=None
):
    """q (B, H, T, D), k and v (B, H_kv, T, D). documents: for each row of the batch the lengths of
    those that are packed into it; none: a row is one document. seen: a window as kernels have it,
    by documents' starts.
    """
    q, dy = rng.normal(size=(2, B, H, T, D))
    k, v = rng.normal(size=(2, B, H_kv, T, D))
    key = KEY if dropout else None
    settings = dict(causal=causal, dropout=dropout, rng_key=key, batch_offset=batch_offset)
    starts = np.stack([packed_starts(lengths, T) for lengths in documents]) if documents else None
    if seen is not None:
        starts = first_keys(starts, seen).astype(np.int32)
    return dict(q=q, k=k, v=v, dy=dy, starts=starts, settings=settings | ({"window": window} if window else {}))


RUNG_SUMMARIES = {
    "naive": "attention: one kernel for each formula",
    "tiled": "attention: tiles in shared memory",
    "online": "attention: the softmax of a row as its scores come",
    "flash": "attention: no (T, T) matrix in memory",
    "flash_tensor_cores": "attention: flash on tensor cores",
}


def _rung(name: str) -> Kernel:
    allowed = 2e-3 if name == "flash_tensor_cores" else 1e-4  # operands of TF32 have 10 bits of mantissa
    return Kernel(name, f"minillm.kernels.attention.{name}", RUNG_SUMMARIES[name], allowed, allowed)


ATTENTION = Case(
    "attention",
    inputs=attention_inputs,
    forward=lambda op, a: op.attention_forward(a.q, a.k, a.v, **a.settings, starts=a.starts),
    backward=lambda op, a, saved: op.attention_backward(a.dy, saved),
    differentiated=("q", "k", "v"),
    low_precision=("q", "k", "v", "dy"),
    kernel=tuple(map(_rung, RUNGS)),
    dimensions=("batch", "heads", "kv_heads", "time", "width"),
    gradcheck=[
        at(2, 4, 4, 5, 3, label="causal"),
        at(2, 4, 4, 5, 3, label="full", causal=False),
        at(2, 4, 4, 5, 3, label="dropout", dropout=0.3),
        at(2, 4, 2, 5, 3, label="4 query heads on 2 key/value heads"),
        at(2, 4, 2, 5, 3, label="a window of 3", window=3),
        at(2, 4, 2, 5, 3, label="packed documents, dropout", documents=((2, 3), (1, 3)), dropout=0.3),
        at(2, 4, 2, 5, 3, label="packed documents, a window of 2", documents=((1, 4), (5,)), window=2),
    ],
    simulate=(1, 2, 1, 128, 64),
)


def self_attention_inputs(rng, B, T, C, dropout=0.2):
    shapes = {"x": (B, T, C), "qkv": (C, 3 * C), "qkv_bias": 3 * C, "o": (C, C), "o_bias": C}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()} | {"dropout": dropout, "rng_key": KEY}


def self_attention(module, a):
    """The attention of GPT-2, with two heads."""
    return module.CausalSelfAttention(Linear(a.qkv, a.qkv_bias), Linear(a.o, a.o_bias), n_head=2, dropout=a.dropout)


SELF_ATTENTION = Case(
    "causal self-attention",
    home="minillm.layers.attention",
    inputs=self_attention_inputs,
    layer=self_attention,
    gradcheck=[at(2, 5, 6)],
)


def rotary_attention_inputs(
    rng, B, T, C, H, H_kv, D, biased=False, interleaved=False, dropout=0.0, window=None, normed=False
):
    rows = {"q": H * D, "k": H_kv * D, "v": H_kv * D, "o": C}
    weights = {name: rng.normal(size=(count, H * D if name == "o" else C)) for name, count in rows.items()}
    biases = {f"{name}_bias": rng.normal(size=count) if biased else None for name, count in rows.items()}
    norms = {name: rng.normal(size=D) if normed else None for name in ("q_norm", "k_norm")}
    settings = dict(heads=(H, H_kv, D), interleaved=interleaved, dropout=dropout, window=window, rng_key=KEY)
    return {"x": rng.normal(size=(B, T, C)), **weights, **biases, **norms, **settings}


def rotary_attention(module, a):
    """The attention of Llama and its kin: grouped key/value heads, positions by rotation, norms, a
    window.
    """
    H, H_kv, D = a.heads
    pairs = ((a.q, a.q_bias), (a.k, a.k_bias), (a.v, a.v_bias), (a.o, a.o_bias))
    linears = (Linear(weight, bias, transposed=True) for weight, bias in pairs)
    positions = RotaryPositions(D, base=100.0, interleaved=a.interleaved)
    norms = {"q_norm": RMSNorm(a.q_norm), "k_norm": RMSNorm(a.k_norm)} if a.q_norm is not None else {}
    return module.RotarySelfAttention(*linears, H, H_kv, positions, dropout=a.dropout, window=a.window, **norms)


ROTARY_ATTENTION = Case(
    "rotary_attention",
    inputs=rotary_attention_inputs,
    layer=rotary_attention,
    gradcheck=[
        at(
            2, 5, 6, 4, H_kv, 2,
            label=f"4 heads on {H_kv}, {'interleaved' if interleaved else 'halves'}, "
            f"{'bias, dropout' if biased else 'no bias'}",
            biased=biased, interleaved=interleaved, dropout=0.2 if biased else 0.0,
        )
        for H_kv, biased, interleaved in product((4, 2, 1), (False, True), (False, True))
    ] + [
        at(2, 5, 6, 4, 2, 2, label="a window of 3", window=3),
        at(2, 5, 6, 4, 2, 2, label="norms on q and k", normed=True),
    ],
)  # fmt: skip
