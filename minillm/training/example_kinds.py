"""The kinds of examples that there are: see examples.py."""

from __future__ import annotations

from minillm.training.chat_examples import ChatExamples
from minillm.training.examples import Examples
from minillm.training.preference_examples import PreferenceExamples
from minillm.training.text_examples import TextExamples

# The last one is what a run learns from by default.
KINDS: tuple[type[Examples], ...] = (ChatExamples, PreferenceExamples, TextExamples)


def kind_of(settings) -> type[Examples]:
    """The kind of examples that the settings name."""
    return next(kind for kind in KINDS if kind.is_named_in(settings))
