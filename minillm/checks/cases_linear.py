"""The cases of matrix products and tables: linear, LoRA, embedding, and the MLPs made of them."""

from __future__ import annotations

from itertools import product

import numpy as np

from minillm.checks.case import Case, Kernel, at
from minillm.layers.linear import Linear


def linear_inputs(rng, *shape, biased=True, transposed=False):
    """x (..., I) and a weight (I, O), or (O, I) where it is transposed; the size is (..., I, O)."""
    *leading, rows, columns = shape
    return dict(
        x=rng.normal(size=(*leading, rows)),
        weight=rng.normal(size=(columns, rows) if transposed else (rows, columns)),
        bias=rng.normal(size=columns) if biased else None,
        dy=rng.normal(size=(*leading, columns)),
        transposed=transposed,
    )


LINEAR = Case(
    "linear",
    inputs=linear_inputs,
    forward=lambda op, a: op.linear_forward(a.x, a.weight, a.bias, a.transposed),
    backward=lambda op, a, saved: op.linear_backward(a.dy, saved),
    differentiated=("x", "weight", "bias"),
    layer=lambda module, a: module.Linear(a.weight, a.bias, a.transposed),
    gradcheck=[
        at(2, 3, 4, 5),
        at(2, 3, 4, 5, label="no bias", biased=False),
        at(2, 3, 4, 5, label="transposed weight", transposed=True),
    ],
)


BIAS = Case(
    "bias",
    inputs=lambda rng, *shape: dict(
        z=rng.normal(size=shape), bias=rng.normal(size=shape[-1]), dy=rng.normal(size=shape)
    ),
    forward=lambda op, a: op.bias_forward(a.z.copy(), a.bias),  # it writes over z
    backward=lambda op, a, saved: (a.dy, op.bias_backward(a.dy, saved)),
    differentiated=("z", "bias"),
    low_precision=("z", "dy"),
    kernel=(Kernel("bias", "minillm.kernels.bias", "a number for each channel, and the sum of its gradients"),),
    gradcheck=[at(2, 3, 4)],
    kernels=[
        at(1, 1),
        at(0, 5),
        at(3, 5),
        at(2, 3, 33),
        at(37, 100),
        at(515, 40),
        at(300, 264),
        at(3, 769),
    ],
    simulate=(64, 256),
    benchmark=[at(16384, 768), at(16384, 2304)],
)


def lora_inputs(rng, *shape, rank=2, scale=0.7, **settings):
    inputs = linear_inputs(rng, *shape, **settings)
    a, b = rng.normal(size=(rank, shape[-2])), rng.normal(size=(shape[-1], rank))
    return {**inputs, "a": a, "b": b, "scale": scale, "alpha": 3.0}


LORA = Case(
    "lora",
    inputs=lora_inputs,
    forward=lambda op, a: op.lora_forward(a.x, a.a, a.b, a.scale),
    backward=lambda op, a, saved: op.lora_backward(a.dy, saved),
    differentiated=("x", "a", "b"),
    gradcheck=[at(2, 3, 4, 5)],
)

LORA_LINEAR = Case(
    "linear with lora",
    home="minillm.layers.lora",
    inputs=lora_inputs,
    layer=lambda module, a: module.LoRALinear(Linear(a.weight, a.bias, a.transposed), a.a, a.b, a.alpha),
    gradcheck=[
        at(
            2, 3, 4, 5,
            label=f"{'out, in' if transposed else 'in, out'}, {'' if biased else 'no '}bias",
            transposed=transposed, biased=biased,
        )
        for transposed, biased in product((False, True), (False, True))
    ],
)  # fmt: skip


def embedding_inputs(rng, tokens, vocabulary, width, accumulate=False, sliced=False, even=False):
    """Ids by Zipf's law, as words are: a few frequent ones, many rare ones, some that never occur.

    even: all ids equally often: sorted, they are runs of a few, not of hundreds. accumulate: the
    gradient is added to `buffer`, as that of a tied head is. sliced: a slice of the table in place
    of ids, as positions are.
    """
    if sliced:
        weight, dy = rng.normal(size=(vocabulary, width)), rng.normal(size=(tokens, width))
        return dict(ids=slice(tokens), weight=weight, dy=dy, buffer=2 * weight if accumulate else None)
    zipf = np.minimum(rng.zipf(1.3, size=tokens) - 1, vocabulary - 1)
    ids = rng.integers(vocabulary, size=tokens) if even else zipf
    weight, dy = rng.normal(size=(vocabulary, width)), rng.normal(size=(1, tokens, width))
    return dict(ids=ids.reshape(1, -1), weight=weight, dy=dy, buffer=2 * weight if accumulate else None)


EMBEDDING = Case(
    "embedding",
    inputs=embedding_inputs,
    forward=lambda op, a: op.embedding_forward(a.ids, a.weight, a.dy.dtype),
    backward=lambda op, a, saved: op.embedding_backward(a.dy, saved, a.buffer),
    differentiated=("weight",),
    layer=lambda module, a: module.Embedding(a.weight),
    layer_inputs=("ids",),
    low_precision=("dy",),
    kernel=(Kernel("embedding", "minillm.kernels.embedding", "rows of a table, and the sum of their gradients"),),
    dimensions=("tokens", "vocabulary", "width"),
    gradcheck=[at(8, 5, 3), at(3, 5, 4, label="a slice", sliced=True)],
    kernels=[
        at(*size, accumulate=accumulate)
        for size in ((1, 1, 1), (0, 5, 3), (31, 5, 3), (64, 2, 33), (65, 3, 100), (300, 40, 260), (513, 1, 7))
        for accumulate in (False, True)
    ]
    + [at(*size, even=True) for size in ((96, 6, 3), (200, 100, 5), (256, 40, 2), (35, 8, 260))],
    simulate=(200, 50, 96),
    benchmark=[at(16384, 50257, 768), at(16384, 65, 384)],
)


def mlp_inputs(rng, B, T, C, F, biased=True):
    biases = {"fc_bias": rng.normal(size=F), "proj_bias": rng.normal(size=C)}
    return dict(
        x=rng.normal(size=(B, T, C)),
        fc=rng.normal(size=(C, F)),
        proj=rng.normal(size=(F, C)),
        **(biases if biased else dict.fromkeys(biases)),
    )


MLP = Case(
    "mlp",
    inputs=mlp_inputs,
    layer=lambda module, a: module.MLP(Linear(a.fc, a.fc_bias), Linear(a.proj, a.proj_bias)),
    gradcheck=[at(2, 3, 4, 8), at(2, 3, 4, 8, label="no bias", biased=False)],
)


def swiglu_mlp_inputs(rng, B, T, C, F, biased=True):
    shapes = {"gate": (F, C), "up": (F, C), "down": (C, F)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    biases = {f"{name}_bias": rng.normal(size=shape[0]) if biased else None for name, shape in shapes.items()}
    return dict(x=rng.normal(size=(B, T, C)), **weights, **biases)


def swiglu_mlp(module, a):
    """The gated MLP of Llama: down(silu(gate(x)) * up(x))."""
    pairs = ((a.gate, a.gate_bias), (a.up, a.up_bias), (a.down, a.down_bias))
    return module.SwiGLU(*(Linear(weight, bias, transposed=True) for weight, bias in pairs))


SWIGLU_MLP = Case(
    "swiglu MLP",
    home="minillm.layers.swiglu",
    inputs=swiglu_mlp_inputs,
    layer=swiglu_mlp,
    gradcheck=[at(2, 3, 4, 7, label="no bias", biased=False), at(2, 3, 4, 7, label="bias")],
)
