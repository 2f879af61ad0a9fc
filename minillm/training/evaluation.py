"""The mean loss of a model on held-out text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minillm.backend.threads import default_workers
from minillm.data import sequential_windows
from minillm.training.data_parallel import DataParallel


@dataclass(frozen=True)
class Evaluation:
    """loss: mean cross-entropy in nats a token, over `tokens` predicted tokens."""

    loss: float
    tokens: int

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
    total, count = 0.0, 0  # on a device the total stays there, so that no batch waits
    for inputs, targets in sequential_windows(tokens, batch_size, context_length, limit):
        total += loss(inputs, targets) * targets.size
        count += targets.size
    return Evaluation(float(total) / count, count)


def evaluate_model(model, tokens, batch_size: int, limit: int | None = None) -> Evaluation:
    """`evaluate` for a model, with windows of its context length: on all cores, or on a device by
    one worker.
    """
    context_length = model.config.context_length
    with DataParallel(model, default_workers(batch_size, context_length, model.device)) as parallel:
        return evaluate(parallel.loss, tokens, batch_size, context_length, limit)
