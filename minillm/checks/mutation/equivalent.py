"""Mutants of this project's functions that are the same function, with the reason why."""

from __future__ import annotations

from minillm.checks.mutation.mutants import Mutant

# reason -> (the file, without "minillm." and in dots; the function; before; after)
EQUIVALENT: dict[str, tuple[tuple[str, str, str, str], ...]] = {}

_REASONS = {entry: reason for reason, entries in EQUIVALENT.items() for entry in entries}


def entry_of(mutant: Mutant) -> tuple[str, str, str, str]:
    """What the list says of a mutant: its file, function and texts, and no line number."""
    return mutant.original.__name__.removeprefix("minillm."), mutant.function, mutant.before, mutant.after


def reason_why_equal(mutant: Mutant) -> str:
    """Why a mutant is the same function; "" if it is not known to be."""
    return _REASONS.get(entry_of(mutant), "")
