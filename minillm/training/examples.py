"""What a run learns from: kinds of examples, how they are stored, drawn and evaluated.

A run learns from one kind of examples: a text (text_examples.py) or what else KINDS of
example_kinds.py has. The loop, the prefetcher, the evaluation and the run folder know no kind: they
ask the run's `Examples`. The life of a kind's examples is

    source = Kind.read(settings, reading)                        the files, before a model is opened
    tokenizer = Kind.make_tokenizer(settings, source, architecture)            a new model's; or its own
    examples = Kind.encode(source, settings, config, tokenizer)  ids; all that can be wrong is found here
    examples.write(folder)                                       into the new run's folder
    examples = Kind.open(folder, settings, config, tokenizer)    from it, now and at every resume
    examples.prepare(run, parallel, is_ended, report)            what needs the model, before the first batch
    examples.batch(step, micro_step)                             a function of its key
    examples.evaluation_batches(part, limit)                     the same ones every time

A batch is a tuple of arrays whose first two are ids and targets, (B, T) or for pairs (B, 2, T).
What becomes of it is the business of the kind's `objective` alone:

    objective.count(parallel, batch)                             of what the loss is a mean
    objective.loss(parallel, batch)                              without gradients
    objective.loss_and_gradients(parallel, batches, count, rng_keys)
                                                                 the sum over the batches / count

To add a kind: a field of TrainingSettings that names its files; a class derived from Examples in a
file of its own, with an objective if the loss is another one than NextToken; a line in KINDS. The
arrays of a run are in its folder training/, and `open` checks what it reads: it may be damaged.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from minillm.data.encode_files import ALONE, Reading
from minillm.layers.documents import check_starts
from minillm.training.data_parallel import DataParallel, loss_of

TRAINING, VALIDATION = PARTS = ("training", "validation")


class Objective(ABC):
    """What a run minimises: the mean over a batch of the loss of each of what it counts.

    figures: names of what is measured beside the loss. counted: of what the loss is a mean.
    rows_each: rows of tokens in an entry of a batch.
    """

    figures: tuple[str, ...] = ()
    counted = "tokens"
    rows_each = 1

    def __init__(self):
        self._sums, self._number = 0.0, 0

    @abstractmethod
    def count(self, parallel: DataParallel, batch: tuple) -> int:
        """How many of what the loss is a mean of a batch has."""

    @abstractmethod
    def of_part(self, model, part: tuple, rng_key, count: float) -> tuple:
        """The sum of losses over a part of a batch divided by `count`, and the sums of the figures;
        in training mode backward has run.
        """

    def loss(self, parallel: DataParallel, batch: tuple):
        """The mean over the batch, 0-d, in evaluation mode."""
        count = self.count(parallel, batch)
        with parallel.evaluating():
            return self._summed(parallel.sums, [batch], [None], count)

    def loss_and_gradients(self, parallel: DataParallel, batches: list[tuple], count: float, rng_keys: list[tuple]):
        """The sum over batches divided by `count`, 0-d; its gradient goes where
        `DataParallel.gradients` says. rng_keys: of each batch.
        """
        return self._summed(parallel.gradients, batches, rng_keys, count)

    def take_figures(self) -> list:
        """The means of `figures` over all that was computed since the last call: 0-d each, on the
        model's device.
        """
        means = [] if not self._number else [total / self._number for total in self._sums]
        self._sums, self._number = 0.0, 0
        return means

    def _summed(self, over_parts, batches, rng_keys, count):
        def of_part(model, part, number):
            return self.of_part(model, part, rng_keys[number], count)

        loss, *sums = over_parts(of_part, batches, self.rows_each, 1 + len(self.figures))
        if sums:
            self._sums = [a + b for a, b in zip(self._sums or [0.0] * len(sums), sums)]
            self._number += sum(len(batch[0]) for batch in batches)
        return loss


class NextToken(Objective):
    """The mean cross-entropy of the tokens that count: those whose target is not -100."""

    def count(self, parallel: DataParallel, batch: tuple) -> int:
        """How many tokens of a batch count."""
        return parallel.count(batch[1])

    def of_part(self, model, part: tuple, rng_key, count: float) -> tuple:
        """The part's sum of losses divided by `count`."""
        ids, targets, *starts = part
        loss = loss_of(model, (ids, targets, *(check_starts(each, ids.shape) for each in starts)), rng_key, count)
        if model.training:
            model.backward()
        return (loss,)


class Examples(ABC):
    """The examples of a run, of one kind.

    objective: the loss on them. names: what the two parts are called in messages; whole_validation:
    all of the second. size: (B, T), the
    largest batch there is. ends: tokens that the model learns to end an answer with.
    """

    size: tuple[int, int]
    ends: tuple[int, ...] = ()
    objective = NextToken()
    names = {TRAINING: "training text", VALIDATION: "validation text"}
    whole_validation = "the whole validation text"

    @staticmethod
    @abstractmethod
    def is_named_in(settings) -> bool:
        """Whether the settings name examples of this kind."""

    @staticmethod
    @abstractmethod
    def read(settings, reading: Reading = ALONE):
        """What the files of the settings hold. reading: of files that are large. Raises UserError
        for files that are wrong.
        """

    @staticmethod
    @abstractmethod
    def make_tokenizer(settings, source, architecture):
        """The tokenizer of a new model of this architecture. Raises UserError where the kind needs
        a model that exists.
        """

    @classmethod
    @abstractmethod
    def encode(cls, source, settings, config, tokenizer) -> Examples:
        """The examples as ids for a model with this configuration. Raises UserError where there are
        too few of them.
        """

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, settings, config, tokenizer) -> Examples:
        """The examples of a run folder. Raises UserError for files that are missing or damaged."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write them into the folder of a new run, which has an empty folder training/."""

    preparing = ""  # what `prepare` does, for the terminal

    def prepare(self, run, parallel: DataParallel, is_ended, report) -> bool:
        """What is to be computed with the model before the first batch. False where `is_ended()`
        ended it; `report(done, in all)` follows it.
        """
        return True

    def tokens_of_a_batch(self) -> float:
        """How many tokens a batch has, on the average."""
        return self.size[0] * self.size[1]

    @abstractmethod
    def batch(self, step: int, micro_step: int) -> tuple:
        """The batch of a micro-step, a function of the run's seed and of these two numbers."""

    @abstractmethod
    def evaluation_batches(self, part: str, limit: int | None = None) -> Iterator[tuple]:
        """The batches of an evaluation of one of PARTS, the same ones every time.

        limit: rows that they have together; None for all there are.
        """

    @abstractmethod
    def sample(self, model, tokenizer, sampler, max_tokens: int) -> str:
        """What the model writes at an evaluation, about as a user would let it write."""

    @abstractmethod
    def sample_heading(self, tokenizer) -> str:
        """What is shown above a sample: 'a text that continues ...'."""

    @abstractmethod
    def summary(self, settings, tokenizer) -> list[str]:
        """What there is to learn from and to validate on, in lines for the terminal."""

    @abstractmethod
    def facts(self) -> dict[str, int]:
        """train_tokens and validation_tokens: how many tokens the parts have."""

    def notes(self, settings) -> Iterator[str]:
        """Remarks on these examples with these settings, a line each."""
        return iter(())

    @abstractmethod
    def options_to_try(self, tokenizer, can_be_shown) -> str:
        """Arguments for `minillm generate RUN` that show what the model has learned.

        can_be_shown: whether the terminal has the characters of a text.
        """


def prompt_option(prompt: str) -> str:
    """--prompt as it is typed in a shell.

    >>> prompt_option("Once"), prompt_option("Once upon")
    ('--prompt "Once"', "--prompt 'Once upon'")
    """
    return f'--prompt "{prompt}"' if prompt.isalnum() else f"--prompt {shlex.quote(prompt)}"
