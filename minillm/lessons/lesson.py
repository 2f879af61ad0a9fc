"""What a lesson is: a claim, a measurement, its findings, commands to try and files to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A short table. Cells are text; the lesson formats its numbers, with the digits that mean
    something.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Finding(NamedTuple):
    """A part of the claim with the measured numbers, and whether the measurement confirms it."""

    statement: str
    holds: bool


@dataclass
class Measured:
    """The result of a lesson.

    figures: name -> number, unrounded, for tests. draw: fills a matplotlib Figure, which the caller
    creates (this module does not import matplotlib).
    """

    tables: list[Table]
    findings: list[Finding]
    draw: Callable[[Any], None]
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return all(finding.holds for finding in self.findings)


@dataclass(frozen=True)
class Lesson:
    """A demonstration.

    claim: one or two sentences that the measurement can refute. idea: a paragraph for a reader who
    has read one chapter on language models. measure: takes a sentence if `sentence` is set, and no
    argument otherwise. commands: things to try; MODEL means the folder of the small model.
    read: files of the repository. sentence: the default one. seconds: how long `measure` takes on
    one idle core, not counting the training of the small model.
    """

    title: str
    claim: str
    idea: str
    measure: Callable[..., Measured]
    commands: tuple[str, ...]
    read: tuple[str, ...]
    sentence: str | None = None
    seconds: int = 2
