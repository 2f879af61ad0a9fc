"""The cases of norms and residuals."""

from __future__ import annotations

from minillm.checks.case import Case, Kernel, at

ROWS = [
    at(0, 5),
    at(3, 5),
    at(5, 40),
    at(2, 3, 33),
    at(37, 100),
    at(515, 40),
    at(3, 769),
]  # kernels: none, few, many, wide


def norm_inputs(rng, *shape, biased=True, mean=3.0, std=2.0, eps=1e-5):
    """x (..., C) of a mean and a standard deviation."""
    width = shape[-1]
    return dict(
        x=rng.normal(size=shape) * std + mean,
        weight=rng.normal(size=width),
        bias=rng.normal(size=width) if biased else None,
        dy=rng.normal(size=shape),
        eps=eps,
    )


def residual_norm_inputs(rng, *shape, delta_biased=True, **settings):
    """The inputs of a norm; delta, which is added to x, and its bias; the gradient of the sum."""
    more = {name: rng.normal(size=shape) for name in ("delta", "dsum")}
    delta_bias = rng.normal(size=shape[-1]) if delta_biased else None
    return {**norm_inputs(rng, *shape, **settings), **more, "delta_bias": delta_bias}


LAYER_NORM = Case(
    "layer_norm",
    inputs=norm_inputs,
    forward=lambda op, a: op.layer_norm_forward(a.x, a.weight, a.bias, a.eps),
    backward=lambda op, a, saved: op.layer_norm_backward(a.dy, saved),
    differentiated=("x", "weight", "bias"),
    layer=lambda module, a: module.LayerNorm(a.weight, a.bias, a.eps),
    low_precision=("x", "dy"),
    kernel=(Kernel("layer_norm", "minillm.kernels.layer_norm", "rows to mean 0 and variance 1, scaled and shifted"),),
    gradcheck=[
        at(2, 3, 8),
        at(2, 3, 8, label="no bias", biased=False),
        at(2, 3, 8, label="small variance", mean=0.0, std=0.1, eps=0.1),
    ],
    kernels=[at(1, 1), *ROWS, at(6, 65, biased=False)],
    simulate=(64, 256),
    benchmark=[at(4096, 768), at(16384, 768), at(8192, 1600)],
)

RMS_NORM = Case(
    "rms_norm",
    inputs=norm_inputs,
    forward=lambda op, a: op.rms_norm_forward(a.x, a.weight, a.eps),
    backward=lambda op, a, saved: op.rms_norm_backward(a.dy, saved),
    differentiated=("x", "weight"),
    layer=lambda module, a: module.RMSNorm(a.weight, a.eps),
    low_precision=("x", "dy"),
    kernel=(Kernel("rms_norm", "minillm.kernels.rms_norm", "rows to mean square 1, scaled"),),
    gradcheck=[at(2, 3, 8), at(2, 3, 8, label="small values", mean=0.0, std=0.1, eps=0.1)],
    # Not one channel: y is +-1 and dx nearly 0 by cancellation, of which float32 has no digits in
    # any way.
    kernels=[at(1, 2), *ROWS, at(5, 40, mean=0.0, std=0.1, eps=0.1)],
    simulate=(64, 256),
    benchmark=[at(4096, 768), at(8192, 2048), at(8192, 4096)],
)


def _residual_layer_norm_backward(op, a, saved):
    dx, dweight, dbias, ddelta_bias = op.residual_layer_norm_backward(a.dsum, a.dy, saved)
    return dx, dx, dweight, dbias, ddelta_bias  # x and delta have the same gradient


RESIDUAL_LAYER_NORM = Case(
    "residual_layer_norm",
    inputs=residual_norm_inputs,
    forward=lambda op, a: op.residual_layer_norm_forward(a.x, a.delta, a.weight, a.bias, a.eps, a.delta_bias),
    backward=_residual_layer_norm_backward,
    outputs=("sum", "y"),
    differentiated=("x", "delta", "weight", "bias", "delta_bias"),
    low_precision=("x", "delta", "dy", "dsum"),
    kernel=(
        Kernel("residual_layer_norm", "minillm.kernels.residual_layer_norm", "a sum of two arrays, and its layer norm"),
    ),
    gradcheck=[at(2, 3, 8), at(2, 3, 8, label="no biases", biased=False, delta_biased=False)],
    kernels=[
        at(1, 1),
        *ROWS,
        at(6, 65, biased=False),
        at(6, 64, delta_biased=False),
        at(3, 5, biased=False, delta_biased=False),
    ],
    simulate=(64, 256),
    benchmark=[at(4096, 768), at(16384, 768), at(8192, 1600)],
)


def _residual_rms_norm_backward(op, a, saved):
    dx, dweight, ddelta_bias = op.residual_rms_norm_backward(a.dsum, a.dy, saved)
    return dx, dx, dweight, ddelta_bias


RESIDUAL_RMS_NORM = Case(
    "residual_rms_norm",
    inputs=residual_norm_inputs,
    forward=lambda op, a: op.residual_rms_norm_forward(a.x, a.delta, a.weight, a.eps, a.delta_bias),
    backward=_residual_rms_norm_backward,
    outputs=("sum", "y"),
    differentiated=("x", "delta", "weight", "delta_bias"),
    low_precision=("x", "delta", "dy", "dsum"),
    kernel=(Kernel("residual_rms_norm", "minillm.kernels.residual_rms_norm", "a sum of two arrays, and its RMS norm"),),
    gradcheck=[at(2, 3, 8), at(2, 3, 8, label="no bias", delta_biased=False)],
    kernels=[at(1, 2), *ROWS, at(6, 64, delta_biased=False)],
    simulate=(64, 256),
    benchmark=[at(4096, 768), at(8192, 2048), at(8192, 4096)],
)

RESIDUAL = Case(
    "residual",
    inputs=lambda rng, *shape: dict(zip(("x", "branch", "dy"), rng.normal(size=(3, *shape)))),
    forward=lambda op, a: op.residual_forward(a.x, a.branch),
    backward=lambda op, a, saved: op.residual_backward(a.dy, saved),
    differentiated=("x", "branch"),
    gradcheck=[at(2, 3, 4)],
)

RESIDUAL_BIAS = Case(
    "residual_bias",
    inputs=lambda rng, *shape, biased=True: dict(
        zip(("x", "branch", "dy"), rng.normal(size=(3, *shape))), bias=rng.normal(size=shape[-1]) if biased else None
    ),
    forward=lambda op, a: op.residual_bias_forward(a.x, a.branch, a.bias),
    backward=lambda op, a, saved: op.residual_bias_backward(a.dy, saved),
    differentiated=("x", "branch", "bias"),
    low_precision=("x", "branch", "dy"),
    kernel=(Kernel("residual_bias", "minillm.kernels.residual_bias", "x + (branch + bias)"),),
    gradcheck=[at(2, 3, 4), at(2, 3, 4, label="no bias", biased=False)],
    kernels=[at(1, 1), *ROWS, at(6, 65, biased=False), at(6, 64, biased=False)],
    simulate=(64, 256),
    benchmark=[at(16384, 768), at(8192, 2048)],
)
