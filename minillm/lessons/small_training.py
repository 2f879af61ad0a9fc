"""A training loop for models so small that nothing is stored: the step of `minillm.training.loop` and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from minillm.backend import threads as blas
from minillm.optim import clip

GRADIENT_CLIP = 1.0


def training(model, optimizer, batch: Callable, schedule: Callable, steps: int, seed: int = 0) -> Iterator[int]:
    """Train, and hand out 0, 1, ..., `steps`, the number of steps done: before the first, between them, after the last.

    The caller looks at the model when it likes, in evaluation mode or not. batch: step -> ids and targets, both (B, T).
    schedule: step -> learning rate. seed: of dropout. One thread: the products are too small to be worth sharing, and the
    numbers do not depend on how many cores there are.
    """
    with blas.threads(1):
        for step in range(steps):
            yield step
            model.train()
            model.loss(*batch(step), rng_key=(seed, "dropout", step))
            model.backward()
            optimizer.lr = schedule(step)
            _, scale = clip(optimizer.parameters, GRADIENT_CLIP)
            optimizer.step(scale)
            optimizer.zero_grad()
        yield steps
