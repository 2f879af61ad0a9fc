"""One training step, and the error messages when it diverges.

On a device the host does not wait here: loss, norm and the clipping scale stay there as 0-d arrays
(minillm/backend/async_read.py). The host reads the norm one step later; the weights are still
unchanged: a gradient that is not finite gives a scale of NaN, for which the optimizer's kernel
changes nothing (kernels/adamw.cu), and the loop reads all outstanding numbers before it saves
anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from minillm.backend.arrays import array_module
from minillm.errors import UserError
from minillm.training.data_parallel import DataParallel
from minillm.training.prefetch import BatchPrefetcher
from minillm.training.run import Run


class Diverged(UserError):
    """Loss or gradient became NaN or infinite."""


def train_step(
    run: Run, parallel: DataParallel, batches: BatchPrefetcher, lr: float, before_update: Callable | None = None
):
    """One step of the optimizer; returns the loss of the batch and the norm of its gradient (before
    clipping).

    before_update: called with the number of the step, counted from 1, and the parameters, which
    have their gradients then. On the CPU loss and norm are numbers, and Diverged is raised before
    any weight changes; on a device they are 0-d arrays there.
    """
    settings = run.settings
    loss = _loss_and_gradients(run, parallel, batches, run.progress.step)
    norm, scale = parallel.clip(run.optimizer.parameters, settings.gradient_clip, settings.gradient_accumulation)
    if run.model.device == "cpu":
        check_finite(run, run.progress.step, loss, norm)
    if before_update:
        before_update(run.progress.step + 1, run.optimizer.parameters)
    if run.sharded is not None:
        run.sharded.step(parallel.own_gradients, lr, scale, parallel.share, parallel.missing)
    else:
        run.optimizer.lr = lr
        if run.model.device == "cpu":  # a device updates all parameters in one launch
            run.optimizer.share = parallel.share
        run.optimizer.step(scale)
    run.optimizer.zero_grad()
    return loss, norm


def _loss_and_gradients(run: Run, parallel: DataParallel, batches: BatchPrefetcher, step: int):
    """The mean loss over all that a step's batches count; the parameters' gradients become K times
    those of this mean, where K = gradient_accumulation.

    The mean is over all N that count in the K batches together, whichever batch they are in. Each
    batch's sum is divided by N / K, which is what a batch counts on the average: for windows of a
    text, of which each counts the same, that is the mean of the batch itself.
    """
    settings, objective = run.settings, run.examples.objective
    micro_steps = range(settings.gradient_accumulation)
    drawn = [batches.get(step, micro_step) for micro_step in micro_steps]
    count = sum(objective.count(parallel, batch) for batch in drawn) / len(drawn)  # N / K
    rng_keys = [(settings.seed, "dropout", step, micro_step) for micro_step in micro_steps]
    loss = objective.loss_and_gradients(parallel, drawn, count, rng_keys)
    # forward: loss = mean over the micro-steps, so each gradient counts 1 / gradient_accumulation
    return loss / settings.gradient_accumulation


def check_finite(run: Run, step: int, loss: float, norm: float) -> None:
    """Raises Diverged, naming the first tensor, unless loss and norm are finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise Diverged(describe_divergence(run, step, loss, norm))


def repeat_gradients(run: Run, parallel: DataParallel, batches: BatchPrefetcher, step: int) -> None:
    """Compute the gradients of a past step again, from the present weights.

    A step that diverged on a device changed no weights, and its batches and dropout masks are
    functions of its number.
    """
    run.optimizer.zero_grad()
    _loss_and_gradients(run, parallel, batches, step)


def describe_divergence(run: Run, step: int, loss: float, norm: float) -> str:
    """Names the step and the first tensor that is not finite: weights first, then gradients in the
    order of backward.
    """
    parameters = run.model.parameters()
    named = [(f"weight {name}", p.value) for name, p in parameters.items()]
    named += [(f"gradient of {name}", p.grad) for name, p in reversed(parameters.items()) if p.grad is not None]
    broken = (name for name, array in named if not array_module(array).isfinite(array).all())
    first = next(broken, "the loss itself" if not math.isfinite(loss) else "the norm of the gradient")
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
    return (
        f"training diverged at step {step}: {what}, first tensor affected: {first}; "
        f"the last good checkpoint is kept in {run.folder}; {_advice(run.settings)}"
    )


def _advice(settings) -> str:
    """Remedies that the run does not use yet; they are settings of a new run."""
    clip = f"a --gradient-clip below {settings.gradient_clip:g}" if settings.gradient_clip else "--gradient-clip 1"
    warm_up = "" if settings.warmup_steps else ", --warmup-steps 100"
    wider = " or --dtype float32" if settings.dtype == "bfloat16" else ""
    return f"try again with a smaller --lr (it is {settings.lr:g}){warm_up} or {clip}{wider}"
