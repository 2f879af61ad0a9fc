"""What a run learns from: kinds of examples, how they are stored, drawn and evaluated.

A run learns from one kind of examples: a text (text_examples.py) or what else KINDS of
example_kinds.py has. The loop, the prefetcher, the evaluation and the run folder know no kind: they
ask the run's `Examples`. The life of a kind's examples is

    source = Kind.read(settings)                                 the files, before a model is opened
    tokenizer = Kind.make_tokenizer(settings, source, architecture)            a new model's; or its own
    examples = Kind.encode(source, settings, config, tokenizer)  ids; all that can be wrong is found here
    examples.write(folder)                                       into the new run's folder
    examples = Kind.open(folder, settings, config, tokenizer)    from it, now and at every resume
    examples.batch(step, micro_step)                             a function of its key
    examples.evaluation_batches(part, limit)                     the same ones every time

A batch is a tuple of arrays whose first two are ids and targets, (B, T) or for pairs (B, 2, T).
What becomes of it is the business of the kind's `objective` alone:

    objective.count(parallel, batch)                             of what the loss is a mean
    objective.loss(parallel, batch)                              without gradients
    objective.loss_and_gradients(parallel, batch, count, rng_key)    the sum over the batch / count

To add a kind: a field of TrainingSettings that names its files; a class derived from Examples in a
file of its own, with an objective if the loss is another one than NextToken; a line in KINDS. The
arrays of a run are in its folder training/, and `open` checks what it reads: it may be damaged.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from minillm.training.data_parallel import DataParallel

TRAINING, VALIDATION = PARTS = ("training", "validation")


class NextToken:
    """The mean cross-entropy of the tokens that count: those whose target is not -100.

    figures: names of what an objective measures beside its loss, here nothing. counted: of what the
    loss is a mean.
    """

    figures: tuple[str, ...] = ()
    counted = "tokens"

    def count(self, parallel: DataParallel, batch: tuple) -> int:
        """How many tokens of a batch count."""
        return parallel.count(batch[1])

    def loss(self, parallel: DataParallel, batch: tuple):
        """The mean over the batch, 0-d, in evaluation mode."""
        return parallel.loss(*batch)

    def loss_and_gradients(self, parallel: DataParallel, batch: tuple, count: float, rng_key: tuple):
        """The sum over the batch divided by `count`, 0-d; its gradient is added to the
        parameters'.
        """
        ids, targets, *starts = batch
        return parallel.loss_and_gradients(ids, targets, rng_key, *starts, count=count)

    def take_figures(self) -> list:
        """The means of `figures` over all that was computed since the last call: 0-d each, on the
        model's device.
        """
        return []


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
    def read(settings):
        """What the files of the settings hold. Raises UserError for files that are wrong."""

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
