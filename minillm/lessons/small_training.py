"""The training loop in its shortest form: the step of `minillm.training.loop`, without saving or
resuming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from minillm.backend.threads import blas_threads
from minillm.optim import clip

GRADIENT_CLIP = 1.0


def training(model, optimizer, batch: Callable, schedule: Callable, steps: int, seed: int = 0) -> Iterator[int]:
    """Train; yields the number of steps done: 0 before the first step, `steps` after the last.

    Between two steps the caller may evaluate the model, also in evaluation mode. batch: step -> ids
    and targets, both (B, T), or all arguments of the model's loss by name. schedule: step ->
    learning rate. seed: of dropout. It uses one thread: the products are small, and so the numbers
    do not depend on the number of cores.
    """
    with blas_threads(1):
        for step in range(steps):
            yield step
            model.train()
            given = batch(step)
            given = given if isinstance(given, dict) else dict(zip(("ids", "targets"), given))
            model.loss(**given, rng_key=(seed, "dropout", step))
            model.backward()
            optimizer.lr = schedule(step)
            _, scale = clip(optimizer.parameters, GRADIENT_CLIP)
            optimizer.step(scale)
            optimizer.zero_grad()
        yield steps
