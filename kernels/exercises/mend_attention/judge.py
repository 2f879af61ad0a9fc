"""The backward pass of causal attention, by finite differences."""

import numpy as np

from minillm.kernels.exercises.steps import check_steps
from minillm.kernels.exercises.task import PythonTask


def check(module, rng, size, gradcheck):
    q, k, v, dy = rng.normal(size=(4, 1, size["heads"], size["time"], size["width"]))
    try:
        gradcheck((module.attention_forward, module.attention_backward), q, k, v, input_names=("q", "k", "v"))
    except AssertionError:
        _, saved = module.attention_forward(q, k, v)
        check_steps(module.attention_backward, (dy, saved), right_steps(q, k, v, dy))
        raise


def right_steps(q, k, v, dy):
    """What the variables of backward have to hold."""
    scale = 1 / np.sqrt(q.shape[-1])
    e = np.exp(q @ k.swapaxes(-1, -2) * scale) * np.tri(q.shape[-2])
    p = e / e.sum(axis=-1, keepdims=True)
    dp = dy @ v.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
    return {
        "p": p,
        "dv": p.swapaxes(-1, -2) @ dy,
        "dp": dp,
        "ds": ds,
        "dq": ds @ k * scale,
        "dk": ds.swapaxes(-1, -2) @ q * scale,
    }


def sizes(rng):
    return [{"heads": 1, "time": 3, "width": 2}, {"heads": 2, "time": int(rng.integers(4, 6)), "width": 3}]


TASK = PythonTask(("attention_forward", "attention_backward"), check, sizes)
