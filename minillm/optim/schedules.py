"""Learning-rate schedules: functions from the step (0, 1, ...) to the learning rate of that step.

All of them warm up: lr rises linearly over the first `warmup_steps` steps, because Adam's second
moment is a poor estimate until it has seen some gradients. Then, up to step `max_steps`:

    cosine      falls from lr to min_lr along half a cosine (Loshchilov, Hutter, "SGDR", 2017, equation 5)
    linear      falls from lr to min_lr on a straight line
    constant    stays
"""

from __future__ import annotations

import math
from collections.abc import Callable

from minillm.errors import UserError

SCHEDULES = ("cosine", "linear", "constant")


def make_schedule(name: str, lr: float, max_steps: int, warmup_steps: int = 0, min_lr: float = 0.0) -> Callable:
    """The function step -> lr of a schedule named in SCHEDULES.

    Raises UserError for impossible settings.
    """
    if name not in SCHEDULES:
        raise UserError(f'unknown schedule "{name}": use one of {", ".join(SCHEDULES)}')
    if not (math.isfinite(lr) and lr > 0):
        raise UserError(f"learning rate is {lr}: it must be a finite number above 0")
    if not 0 <= min_lr <= lr:
        raise UserError(f"the last learning rate is {min_lr}: it must lie between 0 and the learning rate {lr}")
    if warmup_steps < 0 or max_steps < 1:
        raise UserError(f"warm-up of {warmup_steps} steps and {max_steps} steps in all: neither can be that small")

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return lr * (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
        if name == "cosine":
            return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
        if name == "linear":
            return lr + (min_lr - lr) * progress
        return lr

    return schedule
