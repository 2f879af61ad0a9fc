"""The loss of a run that learns from preferences: DPO over the pairs of a step.

A batch is (ids, targets, reference) of N pairs, (N, 2, T), (N, 2, T) and (N, 2): chosen before
rejected, targets of -100 for the prompt and the padding, and the log-probabilities that the
reference model gave to the answers. Data parallelism cuts it between pairs.
"""

from __future__ import annotations

from minillm.models.preference import PairFigures, PreferenceModel
from minillm.training.data_parallel import DataParallel
from minillm.training.examples import Objective


class DirectPreference(Objective):
    """The mean DPO loss of pairs.

    beta, label_smoothing: layers/dpo.py. figures: what is measured beside it.
    """

    figures = PairFigures._fields
    counted = "pairs"
    rows_each = 2

    def __init__(self, beta: float, label_smoothing: float):
        super().__init__()
        self.beta, self.label_smoothing = beta, label_smoothing

    def count(self, parallel: DataParallel, batch: tuple) -> int:
        """How many pairs there are."""
        return len(batch[0])

    def of_part(self, model, part: tuple, rng_key, count: float) -> tuple:
        """The part's sum of losses divided by `count`, and the sums of its figures."""
        pairs = PreferenceModel(model, self.beta, self.label_smoothing)
        pairs.training = model.training
        loss = pairs.loss(*part, rng_key, count)
        if model.training:
            pairs.backward()
        return loss, *pairs.figures


def log_probabilities(parallel: DataParallel, ids, targets) -> list:
    """ids, targets (N, 2, T)  ->  the answers' log-probabilities, in parts (n, 2) in order, without
    gradients.
    """
    with parallel.evaluating():
        return parallel.parts(
            lambda model, *part: PreferenceModel(model, 1.0).forward(*part), ids, targets, rows_each=2
        )
