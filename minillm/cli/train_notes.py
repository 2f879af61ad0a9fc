"""Options of `minillm train` that have no effect get a note."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import numpy as np

from minillm.backend.arrays import to_host
from minillm.models.presets import PRESETS
from minillm.optim import OPTIMIZERS, Muon
from minillm.training import Run

ALIKE = 0.9999  # cosine of two rows from which on they are the same


def notes(run: Run, given: dict) -> Iterator[str]:
    """A line for each option that was given and has no effect in this run, or not the one that is
    to be expected.

    given: options of the command line by name, without those that were left out.
    """
    settings = run.settings
    resumed = "resume" in given
    if run.claim is not None and not run.claim.is_sure:
        yield f"the file system of {run.folder} has no locks: start no second training in this folder"
    if not resumed:
        yield from _on_the_schedule(settings, given)
        yield from _on_the_optimizer(settings, given)
        yield from _on_evaluations(settings, given)
        yield from _on_the_model(run, given)
        if "overwrite" in given and "out" not in given:
            yield "--overwrite replaces the run that --out names: without --out a new folder is made"
    yield from _on_the_end(run, given)


def _on_the_schedule(settings, given: dict) -> Iterator[str]:
    if settings.warmup_steps >= settings.max_steps:
        highest = settings.make_schedule()(settings.max_steps - 1)
        shorter = f"--warmup-steps {settings.max_steps // 10}"
        of_preset = "" if "warmup_steps" in given else " of the preset"
        yield (
            f"the warm-up{of_preset} ({settings.warmup_steps} steps) is as long as the training ({settings.max_steps}) or "
            f"longer: the learning rate comes to {highest:.1e} of {settings.lr:.1e}; {shorter} would let it"
        )
    if settings.schedule == "constant" and "min_lr" in given:
        yield "--min-lr is where a schedule falls to: --schedule constant stays at --lr"


def _on_the_optimizer(settings, given: dict) -> Iterator[str]:
    for name in Muon.more_settings:
        if name in given and name not in OPTIMIZERS[settings.optimizer].more_settings:
            yield f"--{name.replace('_', '-')} is of muon: --optimizer {settings.optimizer} does not use it"


def _on_evaluations(settings, given: dict) -> Iterator[str]:
    between = (settings.max_steps - 1) // settings.eval_interval  # evaluations after the first and before the last step
    if "eval_interval" in given and settings.eval_interval > settings.max_steps:
        yield (
            f"--eval-interval {settings.eval_interval} is more than the {settings.max_steps} steps: there are evaluations "
            "and checkpoints at the start and at the end only"
        )
    if settings.early_stop > between:
        yield (
            f"--early-stop {settings.early_stop} cannot come about: there are {between} evaluations before the last step; "
            "a smaller --eval-interval makes more"
        )


def _on_the_model(run: Run, given: dict) -> Iterator[str]:
    settings = run.settings
    yield from run.examples.notes(settings)
    if settings.init and given.get("preset") and PRESETS[given["preset"]].model:
        yield f"--preset {given['preset']}: its shape of a model is not used, {settings.init} keeps its own"
    if settings.lora_rank:
        adapted = [p for name, p in run.model.parameters().items() if name.endswith(".lora_A")]
        narrowest = min(parameter.value.shape[1] for parameter in adapted)
        if settings.lora_rank > narrowest:
            yield f"--lora-rank {settings.lora_rank} is more than the width of a layer, {narrowest}: it saves nothing"
        yield from _on_the_end_of_an_answer(run)
        learning = [name for name in run.model.parameters() if ".lora_" in name]
        for pattern in settings.freeze:
            if not any(fnmatchcase(name, pattern) for name in learning):
                yield f"--freeze {pattern} changes nothing: LoRA freezes all but its own matrices"


def _on_the_end_of_an_answer(run: Run) -> Iterator[str]:
    """A model gives tokens that it never had to write the same row of the output layer, so that it
    gives them the same logit; LoRA leaves these rows as they are.
    """
    rows = to_host(run.model.lm_head.weight.value)
    for index in run.examples.ends:
        alike = rows @ rows[index] > ALIKE * np.linalg.norm(rows, axis=1) * np.linalg.norm(rows[index])
        if alike.sum() > 1:
            yield (
                f"LoRA cannot teach the token {run.tokenizer.piece(index)!r}, which ends an answer: the model never wrote "
                f"it, and gives {alike.sum() - 1} other tokens the same logit; train without --lora-rank"
            )


def _on_the_end(run: Run, given: dict) -> Iterator[str]:
    stop_after, step, last = given.get("stop_after"), run.progress.step, run.settings.max_steps
    if step >= last:
        yield f"this run is over since step {last}: to train its model further start a new one with --init {run.folder}"
    elif stop_after is not None and stop_after >= last:
        yield f"--stop-after {stop_after} changes nothing: the run ends at step {last}"
    elif stop_after is not None and 0 < stop_after <= step:
        yield f"--stop-after {stop_after}: the run is at step {step} already"
