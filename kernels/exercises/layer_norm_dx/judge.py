"""dx of layer norm: dx = r (g - mean(g) - n mean(g n)), with g = dy w and n = (x - mean) r."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank

BLOCK = 256  # threads


def inputs(rng, rows, width):
    x = rng.normal(2, 3, (rows, width)).astype(np.float32)
    mean, rstd = x.mean(axis=1), 1 / np.sqrt(x.var(axis=1) + 1e-5)
    dy = rng.normal(size=x.shape).astype(np.float32)
    weight = rng.normal(1, 0.5, width).astype(np.float32)
    return {
        "dy": dy,
        "x": x,
        "mean": mean.astype(np.float32),
        "rstd": rstd.astype(np.float32),
        "weight": weight,
        "dx": blank(rows, width),
        "width": np.int32(width),
    }


def expected(a):
    n, g, r = (a.x - a.mean[:, None]) * a.rstd[:, None], a.dy * a.weight, a.rstd[:, None]
    return {"dx": r * (g - g.mean(axis=1, keepdims=True) - n * (g * n).mean(axis=1, keepdims=True))}


def launches(a):
    return [Launch("layer_norm_dx", (len(a.x),), (BLOCK,), ("dy", "x", "mean", "rstd", "weight", "dx", "width"))]


def sizes(rng):
    return [{"rows": 2, "width": 512}, {"rows": 3, "width": int(rng.integers(2, 200))}, {"rows": 4, "width": 1000}]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 12, "width": 768},
    best=Counts(sectors=4800, wavefronts=384, operations=1728),
)
