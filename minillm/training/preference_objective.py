"""The loss of a run that learns from preferences: DPO over the pairs of a step.

A batch is (ids, targets, reference) of N pairs, (N, 2, T), (N, 2, T) and (N, 2): chosen before
rejected, targets of -100 for the prompt and the padding, and the log-probabilities that the
reference model gave to the answers. Data parallelism cuts it between pairs.
"""

from __future__ import annotations

from minillm.models.preference import PairFigures, PreferenceModel
from minillm.training.data_parallel import DataParallel


class DirectPreference:
    """The mean DPO loss of pairs.

    beta, label_smoothing: layers/dpo.py. figures: what is measured beside it.
    """

    figures = PairFigures._fields
    counted = "pairs"

    def __init__(self, beta: float, label_smoothing: float):
        self.beta, self.label_smoothing = beta, label_smoothing
        self._sums, self._pairs = 0.0, 0

    def count(self, parallel: DataParallel, batch: tuple) -> int:
        """How many pairs there are."""
        return len(batch[0])

    def loss(self, parallel: DataParallel, batch: tuple):
        """The mean over the batch, 0-d, in evaluation mode."""
        with parallel.evaluating():
            return self._over_parts(parallel, batch, len(batch[0]), None)

    def loss_and_gradients(self, parallel: DataParallel, batch: tuple, count: float, rng_key: tuple):
        """The sum over the batch divided by `count`, 0-d; its gradient is added to the
        parameters'.
        """
        loss = self._over_parts(parallel, batch, count, rng_key)
        parallel.add_gradients()
        return loss

    def take_figures(self) -> list:
        """The means of `figures` over all pairs since the last call: 0-d each, on the model's
        device.
        """
        means = [] if not self._pairs else list(self._sums / self._pairs)
        self._sums, self._pairs = 0.0, 0
        return means

    def _over_parts(self, parallel: DataParallel, batch: tuple, count: float, rng_key):
        """The sum of the parts' losses; with a key their gradients are in the copies of the
        model.
        """

        def of_part(model, ids, targets, reference):
            pairs = PreferenceModel(model, self.beta, self.label_smoothing)
            pairs.training = model.training
            loss = pairs.loss(ids, targets, reference, rng_key, count)
            if model.training:
                pairs.backward()
            return loss, pairs.figures

        losses, sums = zip(*parallel.parts(of_part, *batch, rows_each=2))
        self._sums, self._pairs = self._sums + sum(sums), self._pairs + len(batch[0])
        return sum(losses)


def log_probabilities(parallel: DataParallel, ids, targets) -> list:
    """ids, targets (N, 2, T)  ->  the answers' log-probabilities, in parts (n, 2) in order, without
    gradients.
    """
    with parallel.evaluating():
        return parallel.parts(
            lambda model, *part: PreferenceModel(model, 1.0).forward(*part), ids, targets, rows_each=2
        )
