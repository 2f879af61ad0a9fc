"""The cases of what acts on each number, or each row, by itself: GELU, SwiGLU, softmax, dropout."""

from __future__ import annotations

from minillm.checks.case import KEY, Case, Kernel, at
from minillm.checks.cases_norms import ROWS


def gelu_inputs(rng, *shape, biased=True, approximate="tanh"):
    return dict(
        x=3 * rng.normal(size=shape),
        bias=rng.normal(size=shape[-1]) if biased else None,
        dy=rng.normal(size=shape),
        approximate=approximate,
    )


GELU = Case(
    "gelu",
    inputs=gelu_inputs,
    forward=lambda op, a: op.gelu_forward(a.x, a.bias, a.approximate),
    backward=lambda op, a, saved: op.gelu_backward(a.dy, saved),
    differentiated=("x", "bias"),
    layer=lambda module, a: module.GELU(a.approximate) if a.bias is None else None,
    low_precision=("x", "dy"),
    kernel=(Kernel("gelu", "minillm.kernels.gelu", "the activation of GPT-2, with the bias before it"),),
    slope_error=1e-8,
    gradcheck=[
        at(4, 5, label="tanh", biased=False),
        at(2, 4, 5, label="tanh, with bias"),
        at(4, 5, label="none", approximate="none", biased=False),
        at(2, 4, 5, label="none, with bias", approximate="none"),
    ],
    kernels=[
        at(1, 1),
        *ROWS,
        at(6, 65, biased=False),
        at(300, 65, approximate="none"),
        at(6, 65, approximate="none", biased=False),
    ],
    simulate=(64, 256),
    benchmark=[at(4096, 3072), at(16384, 3072), at(8192, 6400)],
)


def swiglu_inputs(rng, *shape, scale=3.0):
    gate, up, dh = rng.normal(size=(3, *shape))
    return dict(gate=scale * gate, up=up, dh=dh)


SWIGLU = Case(
    "swiglu",
    inputs=swiglu_inputs,
    forward=lambda op, a: op.swiglu_forward(a.gate, a.up),
    backward=lambda op, a, saved: op.swiglu_backward(a.dh, saved),
    outputs=("h",),
    differentiated=("gate", "up"),
    low_precision=("gate", "up", "dh"),
    kernel=(Kernel("swiglu", "minillm.kernels.swiglu", "the gated activation of Llama"),),
    gradcheck=[at(2, 3, 5)],
    kernels=[at(*problem.size, scale=16.0) for problem in [at(1, 1), *ROWS]],  # some sigmoids are 0 or 1
    simulate=(64, 256),
    benchmark=[at(4096, 2048), at(16384, 2048), at(8192, 5632)],
)

SOFTMAX = Case(
    "softmax",
    inputs=lambda rng, *shape: dict(x=rng.normal(size=shape), dp=rng.normal(size=shape)),
    forward=lambda op, a: op.softmax_forward(a.x),
    backward=lambda op, a, saved: op.softmax_backward(a.dp, saved),
    outputs=("p",),
    differentiated=("x",),
    layer=lambda module, a: module.Softmax(),
    gradcheck=[at(2, 3, 5)],
)


def dropout_inputs(rng, *shape, p=0.3, batch_offset=0):
    return dict(x=rng.normal(size=shape), dy=rng.normal(size=shape), p=p, rng_key=KEY, batch_offset=batch_offset)


DROPOUT = Case(
    "dropout",
    inputs=dropout_inputs,
    forward=lambda op, a: op.dropout_forward(a.x, a.p, a.rng_key, a.batch_offset),
    backward=lambda op, a, saved: op.dropout_backward(a.dy, saved),
    differentiated=("x",),
    layer=lambda module, a: module.Dropout(a.p),
    low_precision=("x", "dy"),
    kernel=(Kernel("dropout", "minillm.kernels.dropout", "zeros at random places, the same ones in backward"),),
    gradcheck=[at(3, 4, 5)],
    kernels=[
        at(*size, batch_offset=offset) for size in ((1, 1), (0, 3), (5, 7), (3, 5, 161), (64, 64)) for offset in (0, 3)
    ],
    simulate=(64, 256),
    benchmark=[at(4096, 768, p=0.1), at(16384, 768, p=0.1)],
)
