"""dk and dv of causal attention, from shares that are computed again tile by tile."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank, blocks

TILE, WIDTH = 64, 32  # keys of a block, which has as many threads; numbers of a key


def inputs(rng, time):
    q, k, v, dy = (rng.normal(0, scale, (time, WIDTH)).astype(np.float32) for scale in (2, 2, 1, 1))
    e = np.exp(q.astype(np.float64) @ k.T / np.sqrt(WIDTH)) * np.tri(time)
    total = e.sum(axis=1, keepdims=True)
    return {
        "q": q,
        "k": k,
        "v": v,
        "dy": dy,
        "lse": np.log(total[:, 0]).astype(np.float32),
        "delta": (dy * (e / total @ v)).sum(axis=1).astype(np.float32),
        "dk": blank(time, WIDTH),
        "dv": blank(time, WIDTH),
        "time": np.int32(time),
    }


def expected(a):
    p = np.exp(a.q @ a.k.T / np.sqrt(WIDTH) - a.lse[:, None]) * np.tri(len(a.q))
    ds = p * (a.dy @ a.v.T - a.delta[:, None])
    return {"dk": ds.T @ a.q / np.sqrt(WIDTH), "dv": p.T @ a.dy}


def launches(a):
    arguments = ("q", "k", "v", "dy", "lse", "delta", "dk", "dv", "time")
    return [Launch("flash_backward", (blocks(int(a.time), TILE),), (TILE,), arguments)]


def sizes(rng):
    return [{"time": 64}, {"time": int(rng.integers(1, 64))}, {"time": int(rng.integers(65, 80))}]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"time": 100},
    best=Counts(sectors=2724, wavefronts=10548, operations=9714),
)
