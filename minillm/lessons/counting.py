"""A small language of conversations about counting, in which every question has one right answer.

    user: what comes after four?         assistant: five.
    user: and before that?               assistant: four.

The second question of a conversation is about the first answer. With 13 numbers, two directions and
the forms below there are 156 first questions. Some of them are held out: no conversation to learn
from contains them. Whoever answers those has learned to count, not the list.

POLITE is another manner of saying the same answer, for lessons in which one manner is preferred.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data.conversations import conversation_of

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
FORMS = (
    "what comes {} {}?",
    "{} {}?",
    "tell me what comes {} {}.",
    "which number comes {} {}?",
    "the number {} {}, please?",
    "count: {} {}?",
)
DIRECTIONS = {"after": 1, "before": -1}
PLAIN, POLITE = "{}.", "it is {}."
HELD_OUT = 30  # questions


class Question(NamedTuple):
    """A question, and the number that answers it."""

    text: str
    number: int

    def answer(self, manner: str = PLAIN) -> str:
        return manner.format(_name(self.number))


def questions() -> tuple[list[Question], list[Question]]:
    """All first questions: those to learn from, and those held out."""
    every = [
        Question(form.format(direction, name), number + step)
        for form in FORMS
        for direction, step in DIRECTIONS.items()
        for number, name in enumerate(NUMBERS)
    ]
    order = np.argsort(stream(0, "held out").uniform(len(every)))
    held_out = set(order[:HELD_OUT].tolist())
    learned = [question for at, question in enumerate(every) if at not in held_out]
    return learned, [every[at] for at in sorted(held_out)]


def follow_ups(question: Question) -> list[Question]:
    """The questions that may follow, about the answer; none where that is no number."""
    if not 0 <= question.number < len(NUMBERS):
        return []
    return [Question(f"and {direction} that?", question.number + step) for direction, step in DIRECTIONS.items()]


def messages(*turns: Question, manner: str = PLAIN) -> list[dict]:
    """A conversation of these questions and their answers, as messages with roles."""
    said = [(("user", turn.text), ("assistant", turn.answer(manner))) for turn in turns]
    return [{"role": role, "content": content} for turn in said for role, content in turn]


def conversations(of: list[Question], manner: str = PLAIN):
    """Conversations that begin with these questions: each by itself, and with each follow-up."""
    turns = [(question, *more) for question in of for more in ((), *((each,) for each in follow_ups(question)))]
    return [conversation_of("counting", {"messages": messages(*each, manner=manner)}) for each in turns]


def _name(number: int) -> str:
    return NUMBERS[number] if 0 <= number < len(NUMBERS) else "nothing"
