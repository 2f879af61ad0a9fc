"""The mean loss of a model on held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from minillm.backend.threads import default_workers
from minillm.data import sequential_windows
from minillm.training.data_parallel import DataParallel


@dataclass(frozen=True)
class Evaluation:
    """loss: mean cross-entropy in nats a token, over `tokens` predicted tokens; or the mean of
    another loss over so many of what it counts. figures: what was measured beside it.
    """

    loss: float
    tokens: int
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens with the same uncertainty."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def bits_per_byte(self, text_bytes: int) -> float:
        """The loss in bits for each byte of the predicted text: comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / text_bytes


def evaluate(loss, tokens, batch_size: int, context_length: int, limit: int | None = None) -> Evaluation:
    """The loss on windows of `tokens` (N,), one after the other.

    loss: a function of ids and targets, both (B, T), such as `DataParallel(model, ...).loss`. All
    windows, so that every token but the first is predicted once; or `limit` windows, evenly spaced
    and the same every time.
    """
    windows = sequential_windows(tokens, batch_size, context_length, limit)
    return mean_loss((loss(inputs, targets), targets.size) for inputs, targets in windows)


def evaluate_examples(parallel: DataParallel, examples, part: str, limit=None, before_batch=lambda: None) -> Evaluation:
    """The loss on one part of a run's examples (examples.py), all of it or `limit` rows.

    before_batch: called before each batch; it may raise.
    """

    def losses():
        for batch in examples.evaluation_batches(part, limit):
            before_batch()
            yield examples.objective.loss(parallel, batch), examples.objective.count(parallel, batch)

    objective = examples.objective
    objective.take_figures()  # those of training
    evaluation = mean_loss(losses())
    return replace(evaluation, figures=dict(zip(objective.figures, map(float, objective.take_figures()))))


def evaluate_whole(model, examples, part: str) -> Evaluation:
    """The loss of a model on all of one part of a run's examples, on all cores, or on a device by
    one worker.
    """
    with DataParallel(model, default_workers(*examples.size, model.device)) as parallel:
        return evaluate_examples(parallel, examples, part)


def mean_loss(losses: Iterable[tuple]) -> Evaluation:
    """The mean of all, from pairs (mean of a batch, number that it is the mean of)."""
    total, number = 0.0, 0  # on a device the total stays there, so that no batch waits
    for loss, count in losses:
        total += loss * count
        number += count
    return Evaluation(float(total) / number, number)


def evaluate_model(model, tokens, batch_size: int, limit: int | None = None) -> Evaluation:
    """`evaluate` for a model, with windows of its context length: on all cores, or on a device by
    one worker.
    """
    context_length = model.config.context_length
    with DataParallel(model, default_workers(batch_size, context_length, model.device)) as parallel:
        return evaluate(parallel.loss, tokens, batch_size, context_length, limit)
