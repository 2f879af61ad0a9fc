"""The tour: ten stops in reading order, each with one question to answer before the next opens.

A question is about a gradient, and the engine answers it while the page is built: of the choices,
the one whose numbers are those of the engine is right. The stops themselves are in stops.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np

from minillm.errors import UserError

CLOSE = dict(rtol=1e-3, atol=1e-9)  # an eps, such as that of AdamW, may be in the engine's number


@dataclass(frozen=True)
class Choice:
    """An answer to choose. claim: the numbers that it says the gradient has. reply: why it is right
    or wrong."""

    text: str
    claim: Callable[[], np.ndarray | float]
    reply: str


@dataclass(frozen=True)
class Stop:
    """One stop.

    name      of the operation whose page it is about.      title, idea, question: text.
    engine    computes the answer: an array, or a number where there are no choices.
    choices   of which one is right.
    slips     for a question that asks for a number: a foreseeable wrong one -> why it is wrong.
    reply     for a question that asks for a number: why the right one is right.
    """

    name: str
    title: str
    idea: str
    question: str
    engine: Callable[[], np.ndarray | float]
    hint: str
    choices: tuple[Choice, ...] = ()
    slips: tuple[tuple[float, str], ...] = ()
    reply: str = ""


def right_choice(stop: Stop) -> int:
    """The index of the choice whose claim equals what the engine computes.

    Raises UserError where that is none, or more than one.
    """
    answer = np.asarray(stop.engine())
    claims = [np.asarray(choice.claim()) for choice in stop.choices]
    equal = [at for at, claim in enumerate(claims) if claim.shape == answer.shape and np.allclose(claim, answer, **CLOSE)]
    if len(equal) != 1:
        raise UserError(
            f"minillm/web/read/stops.py: stop {stop.name}: {len(equal)} choices equal the engine's gradient: "
            "mend their claims, so that it is one"
        )
    return equal[0]


def checks(stop: Stop) -> dict:
    """What the page needs to check an answer to a stop, as JSON data."""
    if stop.choices:
        return {"right": right_choice(stop), "replies": [choice.reply for choice in stop.choices]}
    answer = float(stop.engine())
    if close := [slip for slip, _ in stop.slips if np.isclose(slip, answer, rtol=0.02)]:
        raise UserError(
            f"minillm/web/read/stops.py: stop {stop.name}: the engine's answer is {answer:g}, and {close[0]:g} is among "
            "the wrong ones: take it out"
        )
    return {"number": answer, "slips": [list(slip) for slip in stop.slips], "reply": stop.reply}


def tour_html(stops: tuple[Stop, ...]) -> str:
    """The stops as a list; tour.js closes those that are not open yet."""
    return f'<ol class="tour">{"".join(_stop_html(at, stop) for at, stop in enumerate(stops))}</ol>'


def _stop_html(at: int, stop: Stop) -> str:
    name = f"stop-{at}"
    return f"""
<li class="stop panel" data-stop="{at}">
<h3><span class="place" aria-hidden="true">{at + 1}</span> <span>{escape(stop.title)}</span>\
 <span class="mark"></span></h3>
<p class="closed quiet" hidden>It opens with the answer to stop {at}.</p>
<div class="inside">
<p>{marked_up(stop.idea)} <a href="{stop.name}.html">Read {escape(stop.name)}</a></p>
<form>
{_answers_html(name, stop)}
<div class="row"><button type="submit" class="primary">Check</button>
<details><summary>Hint</summary><p>{marked_up(stop.hint)}</p></details></div>
<p class="reply" role="status"></p>
</form>
</div>
</li>"""


def _answers_html(name: str, stop: Stop) -> str:
    question = marked_up(stop.question)
    if not stop.choices:
        return (
            f'<p id="{name}-question" class="question">{question}</p>'
            f'<label>Number <input name="answer" inputmode="decimal" autocomplete="off" size="8" '
            f'aria-describedby="{name}-question"></label>'
        )
    options = "".join(
        f'<label class="choice"><input type="radio" name="answer" value="{at}"> <span>{marked_up(choice.text)}</span></label>'
        for at, choice in enumerate(stop.choices)
    )
    return f'<fieldset><legend class="question">{question}</legend>{options}</fieldset>'


def marked_up(text: str) -> str:
    """HTML of a text with `code` in it.

    >>> marked_up("`dx` < 1")
    '<code>dx</code> &lt; 1'
    """
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
