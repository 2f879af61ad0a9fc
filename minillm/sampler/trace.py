"""A record of each stage between logits and token: `Sampler.trace`, `minillm generate --trace`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minillm.sampler.probability import entropy, softmax


class StageTrace(NamedTuple):
    """The distribution after a stage.

    kept: tokens left. removed: the share of the probability that the stage removed. entropy: in
    nats. choices: exp(entropy), the number of equally likely tokens with this entropy.
    """

    name: str
    kept: int
    removed: float
    entropy: float
    choices: float


class TokenTrace(NamedTuple):
    """How one token was chosen.

    drawn: the random number, None at temperature 0. first, past: the token's interval [first, past)
    of [0, 1), which contains that number.
    """

    stages: list[StageTrace]
    token: int
    probability: float
    drawn: float | None
    first: float
    past: float

    def as_json(self) -> dict:
        """The trace in the types of JSON, as `minillm generate --trace --json` prints it."""
        return {**self._asdict(), "stages": [stage._asdict() for stage in self.stages]}

    def lines(self, decode: Callable[[int], str], short: bool = False) -> list[str]:
        """The trace as text, a line a stage and one for the draw.

        short: fewer words, for 80 columns.

        >>> stage = StageTrace("top_k", 2, 0.5, 0.6931, 2.0)
        >>> for line in TokenTrace([stage], 7, 0.5, 0.25, 0.0, 0.5).lines(lambda token: " the"):
        ...     print(line)
        top_k                    2 tokens kept  50.00 % of the mass removed  entropy 0.693  choices 2.0
        drawn 0.250000 falls into [0.000000, 0.500000): ' the' (7), probability 0.5000
        """
        kept, removed = ("kept", "removed") if short else ("tokens kept", "of the mass removed")
        lines = [
            f"{stage.name:<18}{stage.kept:>8,} {kept} {stage.removed:>7.2%} {removed}  "
            f"entropy {stage.entropy:.3f}  choices {stage.choices:.1f}".replace("%", " %")
            for stage in self.stages
        ]
        token = f"{decode(self.token)!r} ({self.token}), probability {self.probability:.4f}"
        if self.drawn is None:
            return [*lines, f"the largest logit: {token}"]
        return [*lines, f"drawn {self.drawn:.6f} falls into [{self.first:.6f}, {self.past:.6f}): {token}"]


class Tracer:
    """Records the distribution after every stage. watch: gets the arguments of `record`, too."""

    watch: Callable | None = None

    def __init__(self):
        self._stages: list[list[StageTrace]] = []  # of each row
        self._before: np.ndarray | None = None  # probabilities before the stage

    def record(self, name: str, logits, ids) -> None:
        """logits (B, n) after a stage. ids (B, n): the tokens they belong to, None for all; the
        others are cut.
        """
        if self.watch:
            self.watch(name, logits, ids)
        p, left = softmax(logits), logits > -np.inf
        if self._before is None:
            self._stages, removed = [[] for _ in p], np.zeros(len(p))
        else:
            before = self._before
            if before.shape != p.shape:  # the stage kept only `ids`
                before = np.take_along_axis(before, ids, axis=1)
            removed = 1 - np.sum(before, axis=1, where=left)
        unsure = entropy(p)
        for row, stages in enumerate(self._stages):
            figures = (
                int(left[row].sum()),
                max(float(removed[row]), 0.0),
                float(unsure[row]),
                float(np.exp(unsure[row])),
            )
            stages.append(StageTrace(name, *figures))
        self._before = p

    def finish(self, tokens, uniforms, shares) -> list[TokenTrace]:
        """tokens (B,), the random numbers (B,) or None, and for each row the interval (first,
        past).
        """
        traces = []
        for row, (stages, token, (first, past)) in enumerate(zip(self._stages, tokens, shares)):
            drawn = None if uniforms is None else float(uniforms[row])
            traces.append(TokenTrace(stages, int(token), past - first, drawn, first, past))
        return traces
