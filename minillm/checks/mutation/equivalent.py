"""The mutants of this project's functions that are the same function, with the reason why.

They are listed in equivalent.txt, beside this file. The list is a part of the package, so that the
command can tell them from survivors that are new; the tests hold it to what survives.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from minillm.checks.mutation.mutants import Mutant

Entry = tuple[str, str, str, str]  # file, function, before, after


def entry_of(mutant: Mutant) -> Entry:
    """What the list says of a mutant: its file, function and texts, and no line number."""
    return mutant.original.__name__.removeprefix("minillm."), mutant.function, mutant.before, mutant.after


def reason_why_equal(mutant: Mutant) -> str:
    """Why a mutant is the same function; "" if it is not known to be."""
    return known_as_equal().get(entry_of(mutant), "")


@cache
def known_as_equal() -> dict[Entry, str]:
    """The whole list: entry -> reason."""
    found: dict[Entry, str] = {}
    reason, place, before, after = "", "", "", ""

    def add() -> None:
        if place:
            found[(*place.split(" ", 1), before, after)] = reason

    for line in files(__package__).joinpath("equivalent.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(" -> "):
            after = line[4:]
        elif line.startswith("    "):
            before = line[4:]
        elif line and not line.startswith("#"):
            add()
            place = before = after = ""
            reason, place = (line[1:-1], "") if line.startswith("[") else (reason, line)
    add()
    return found
