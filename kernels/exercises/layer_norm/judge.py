"""Layer norm, forward, with the mean and the inverse standard deviation that backward needs."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank

BLOCK = 128  # threads
EPS = np.float32(1e-5)
MEAN = 100.0  # of x, whose standard deviation is 1: E[x^2] - E[x]^2 loses four digits


def inputs(rng, rows, width):
    x = MEAN + rng.normal(size=(rows, width))
    x[-1] = rng.normal(scale=1e-3, size=width)  # where eps matters
    x = x.astype(np.float32)
    weight, bias = rng.normal(size=(2, width)).astype(np.float32)
    outputs = {"y": blank(rows, width), "mean": blank(rows), "inverse": blank(rows)}
    return {"x": x, "weight": weight, "bias": bias, **outputs, "width": np.int32(width), "eps": EPS}


def expected(a):
    mean = a.x.mean(axis=1, keepdims=True)
    inverse = 1 / np.sqrt(a.x.var(axis=1, keepdims=True) + a.eps)
    return {"y": (a.x - mean) * inverse * a.weight + a.bias, "mean": mean, "inverse": inverse}


def launches(a):
    arguments = ("x", "weight", "bias", "y", "mean", "inverse", "width", "eps")
    return [Launch("layer_norm", (len(a.x),), (BLOCK,), arguments)]


def sizes(rng):
    return [
        {"rows": 2, "width": 2 * BLOCK},
        {"rows": 2, "width": int(rng.integers(8, BLOCK))},
        {"rows": 2, "width": 1024},
        {"rows": int(rng.integers(2, 6)), "width": int(rng.integers(BLOCK + 1, 1024))},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 4, "width": 1000},
    best=Counts(sectors=2008, wavefronts=64, operations=584),
)
