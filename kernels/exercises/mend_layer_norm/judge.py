"""The backward pass of layer norm, by finite differences."""

import numpy as np

from minillm.kernels.exercises.steps import check_steps
from minillm.kernels.exercises.task import PythonTask


def check(module, rng, size, gradcheck):
    shape = size["rows"], size["width"]
    x, weight, bias = rng.normal(1, 2, shape), rng.normal(1, 0.5, shape[1]), rng.normal(size=shape[1])
    try:
        gradcheck(
            (module.layer_norm_forward, module.layer_norm_backward),
            x,
            weight,
            bias,
            input_names=("x", "weight", "bias"),
        )
    except AssertionError:
        _, saved = module.layer_norm_forward(x, weight, bias)
        dy = rng.normal(size=shape)
        check_steps(module.layer_norm_backward, (dy, saved), right_steps(x, weight, dy))
        raise


def right_steps(x, weight, dy, eps=1e-5):
    """What the variables of backward have to hold."""
    rstd = 1 / np.sqrt(x.var(axis=1, keepdims=True) + eps)
    normed, dnormed = (x - x.mean(axis=1, keepdims=True)) * rstd, dy * weight
    along = (dnormed * normed).mean(axis=1, keepdims=True)
    return {
        "normed": normed,
        "rstd": rstd,
        "dnormed": dnormed,
        "dbias": dy.sum(axis=0),
        "dweight": (dy * normed).sum(axis=0),
        "dx": rstd * (dnormed - dnormed.mean(axis=1, keepdims=True) - normed * along),
    }


def sizes(rng):
    return [{"rows": 3, "width": 4}, {"rows": 2, "width": int(rng.integers(5, 9))}]


TASK = PythonTask(("layer_norm_forward", "layer_norm_backward"), check, sizes)
