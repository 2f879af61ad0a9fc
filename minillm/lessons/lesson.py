"""What a lesson is: a claim, a measurement, what it found, and where to go from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A short table. Cells are shown as they are; numbers are formatted by the lesson, which knows their precision."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Finding(NamedTuple):
    """A part of the claim with its numbers in it, and whether the measurement bears it out."""

    statement: str
    holds: bool


@dataclass
class Measured:
    """What a lesson measured.

    figures: name -> number, unrounded, for tests. draw: fills a matplotlib Figure, which is imported by who calls it.
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
    """A demonstration. `measure` takes the sentence where there is a default one, and nothing otherwise.

    claim: a sentence or two that can be wrong. idea: the paragraph that explains it to somebody who has read one chapter on
    language models. commands and read: "try this"; MODEL in a command
    becomes the folder of the small model.
    """

    title: str
    claim: str
    idea: str
    measure: Callable[..., Measured]
    commands: tuple[str, ...]
    read: tuple[str, ...]
    sentence: str | None = None
