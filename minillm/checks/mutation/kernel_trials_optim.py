"""Trials of the optimizer: AdamW with copies in bfloat16, and gradients that are clipped."""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import bfloat16
from minillm.checks.case import FORWARD
from minillm.checks.mutation.kernel_trial import BFLOAT16, DEVICE, Trial, normal
from minillm.kernels import adamw, global_norm


def adamw_steps() -> list[Trial]:
    """An eps that matters, copies in bfloat16, a scale that is no number, rounding alone."""
    return [_adamw_step(1.0, True), _adamw_step(0.5, False), _adamw_step(np.nan, True), _rounded()]


def _adamw_step(scale: float, decoupled: bool) -> Trial:
    shapes = ((3, 5), (5000,), (1,), (8,))
    lists = [[normal(10 * n + m, *shape) for m, shape in enumerate(shapes)] for n in range(4)]
    lists[3] = [np.abs(each) for each in lists[3]]
    settings = dict(lr=0.1, betas=(0.9, 0.99), eps=0.5, weight_decays=[0.1, 0.0, 0.2, 0.0], step=2, decoupled=decoupled)

    def run():
        values, gradients, first, second = ([to_device(x.copy(), DEVICE) for x in each] for each in lists)
        copies = [None if n == 2 else to_device(np.zeros(x.shape, bfloat16()), DEVICE) for n, x in enumerate(values)]
        adamw.adamw_update(values, gradients, first, second, gradient_scale=scale, copies=copies, **settings)
        copied = {f"copy[{n}]": to_host(x).astype(np.float32) for n, x in enumerate(copies) if x is not None}
        named = zip(("value", "first", "second"), (values, first, second))
        return copied | {f"{name}[{n}]": to_host(x) for name, each in named for n, x in enumerate(each)}

    def expected():
        values, gradients, first, second = ([x.astype(np.float64) for x in each] for each in lists)
        decays = settings["weight_decays"] if np.isfinite(scale) else []
        for n, decay in enumerate(decays):
            g = gradients[n] * scale + (0 if decoupled else decay * values[n])
            first[n], second[n] = 0.9 * first[n] + 0.1 * g, 0.99 * second[n] + 0.01 * g * g
            step = first[n] / (1 - 0.9**2) / (np.sqrt(second[n] / (1 - 0.99**2)) + 0.5)
            values[n] = values[n] - 0.1 * (step + (decay * values[n] if decoupled else 0))
        copied = {f"copy[{n}]": x for n, x in enumerate(values) if n != 2}
        named = zip(("value", "first", "second"), (values, first, second))
        return copied | {f"{name}[{n}]": x for name, each in named for n, x in enumerate(each)}

    label = f"a gradient times {scale}, {decoupled=}, with copies"
    return Trial(label, run, expected, lambda name: BFLOAT16 if name.startswith("copy") else FORWARD)


def _rounded() -> Trial:
    values = [normal(n, *shape) for n, shape in enumerate(((3, 5), (4100,), (1,)))]

    def run():
        copies = [to_device(np.zeros(x.shape, bfloat16()), DEVICE) for x in values]
        adamw.round_to_bfloat16([to_device(x.copy(), DEVICE) for x in values], copies)
        return {f"copy[{n}]": to_host(x).astype(np.float32) for n, x in enumerate(copies)}

    return Trial("copies alone", run, lambda: {f"copy[{n}]": x for n, x in enumerate(values)}, BFLOAT16)


def clipped_norms() -> list[Trial]:
    """With a limit that clips or does not, several batches accumulated, no number, many tensors."""
    three, many = ((3, 4), (1,), (4097,)), ((1,),) * 300
    settings = ((1.0, 1), (1.0, 3), (1e6, 4), (0.0, 2))
    infinite = [_clipped_norm(three, *pair, infinite=True) for pair in settings[1:3]]
    return [*(_clipped_norm(three, *pair) for pair in settings), _clipped_norm(many, 2.0, 2), *infinite]


def _clipped_norm(shapes, max_norm: float, accumulated: int, infinite: bool = False) -> Trial:
    arrays = [normal(n, *shape) for n, shape in enumerate(shapes)]
    arrays[-1][0] = np.inf if infinite else arrays[-1][0]

    def run():
        found = global_norm.clipped_norm([to_device(each, DEVICE) for each in arrays], max_norm, accumulated)
        return dict(zip(("norm", "scale"), map(to_host, found)))

    def expected():
        norm = np.sqrt(sum(np.square(each.astype(np.float64)).sum() for each in arrays)) / accumulated
        scale = min(1, max_norm / norm) if max_norm else 1
        return {"norm": norm, "scale": scale / accumulated if np.isfinite(norm) else np.nan}

    return Trial(f"{len(shapes)} tensors, at most {max_norm}, {accumulated} batches, {infinite=}", run, expected)
