"""All mutants of a name, tried: how many are noticed, and which survive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minillm.checks.mutation.equivalent import reason_why_equal
from minillm.checks.mutation.mutants import Mutant, Outcome, noticed_by
from minillm.checks.mutation.targets import names_to_mutate, targets_of

Progress = Callable[[str, int, int], None]  # name, mutants tried, mutants in all


@dataclass(frozen=True)
class Result:
    """The outcomes of one name: of all mutants of its functions."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def caught(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.noticed]

    @property
    def equal(self) -> list[Mutant]:
        """Survivors that are known to be the same function."""
        return [mutant for mutant in self.survivors_and_equal if reason_why_equal(mutant)]

    @property
    def survivors(self) -> list[Mutant]:
        """Mutants that no check noticed, and which are not known to be the same function."""
        return [mutant for mutant in self.survivors_and_equal if not reason_why_equal(mutant)]

    @property
    def survivors_and_equal(self) -> list[Mutant]:
        return [outcome.mutant for outcome in self.outcomes if not outcome.noticed]


def mutate(names: list[str] | None = None, confirm: bool = True, progress: Progress | None = None) -> Iterator[Result]:
    """Try the mutants of these names, or of all, one name after the other.

    confirm: first check every gradient as it is, as `minillm gradcheck` does. Raises UserError for
    an unknown name, before anything is tried, and GradientError where a gradient is wrong without a
    mutant.
    """
    known = names_to_mutate()
    for name in names or ():
        if name not in known:
            targets_of(name)  # which says what is known
    for name in names or known:
        outcomes = []
        for target in targets_of(name):
            if confirm:
                target.confirm()
            mutants = target.mutants()
            for index, mutant in enumerate(mutants):
                outcomes.append(Outcome(mutant, noticed_by(mutant, target.check)))
                if progress is not None:
                    progress(name, index + 1, len(mutants))
        yield Result(name, tuple(outcomes))
