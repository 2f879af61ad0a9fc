"""Runnable demonstrations, one for each idea: `minillm lesson`."""

from __future__ import annotations

import difflib
from importlib import import_module

from minillm.errors import UserError
from minillm.lessons.lesson import Lesson

NAMES = (  # each builds on those before it, and is a module of this package
    "one-page",
    "likelihood",
    "cross-entropy",
    "backpropagation",
    "fused-gradient",
    "adam",
    "overfitting",
    "greedy-or-sampling",
    "temperature",
    "cuts",
    "attention",
    "kernel",
    "muon",
    "chat",
    "preferences",
    "wrong-gradient",
    "many-hands",
)


def find_lesson(name: str) -> tuple[int, Lesson]:
    """(number, lesson) for a name or a number as text. Raises UserError for any other name."""
    number = int(name) if name.isdecimal() and int(name) < len(NAMES) else None
    if number is None and name not in NAMES:
        close = difflib.get_close_matches(name, (*NAMES, "all"), n=1, cutoff=0.5)
        meant = f'did you mean "{close[0]}"? There' if close and close[0] != name else "there"
        raise UserError(f'no lesson "{name}": {meant} are 0 to {len(NAMES) - 1}, {", ".join(NAMES)}, and all')
    number = NAMES.index(name) if number is None else number
    return number, import_module(f"{__name__}.{NAMES[number].replace('-', '_')}").LESSON


__all__ = ["NAMES", "Lesson", "find_lesson"]
