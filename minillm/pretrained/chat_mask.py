"""Which tokens of a conversation the assistant wrote: those that fine-tuning learns from.

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello.<|im_end|>\\n
                                                          ^^^^^^^^^^^^^^^^      learned

The answer counts, and the token that ends it: the model has to learn to stop. What the template
writes around it is given to the model, never asked of it.

Where an answer is, the template says itself if it has `{% generation %}` marks. If not, it is found
by rendering beginnings of the conversation: the text up to the prompt for answer k, and the text up
to its end, are two beginnings of the whole text, and the answer is what lies between.

Some templates write an earlier answer in another way than the last one: Qwen3's leaves out what was
thought before the last question, Mistral's writes the system message into the last question. Then
no text holds all answers as they are to be given, and the conversation becomes an example for each
answer: what the model has before it when it gives this answer, and the answer.

A token counts if it overlaps a learned character, as in transformers' `assistant_masks`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os.path import commonprefix
from typing import NamedTuple

import numpy as np

from minillm.data.conversations import ASSISTANT, Conversation
from minillm.data.special import special_tokens
from minillm.errors import UserError
from minillm.pretrained.chat import Chat, encode_text
from minillm.pretrained.chat_rendering import render_marked

MARK = re.compile(r"\{%[-+]?\s*generation\b")
MOST_ENDS = 3  # tokens that a template may write at the very end of a conversation only
Span = tuple[int, int]  # positions in a text: the first, and that behind the last


class Example(NamedTuple):
    """A text to learn from: ids (N,), and which of them are learned (N,) bool.

    text, spans: what they were made of.
    """

    ids: list[int]
    learned: np.ndarray
    text: str
    spans: list[Span]


def examples_of(chat: Chat, tokenizer, conversation: Conversation) -> list[Example]:
    """The examples of a conversation: one, or one for each answer where the template writes earlier
    answers differently.

    Raises UserError, naming file and line, where the template refuses the conversation, leaves out
    one of its messages, or the tokenizer cannot express it.
    """
    where, messages, learned, more = conversation.where, conversation.messages, conversation.learned, conversation.more
    try:
        if MARK.search(chat.template):
            whole, marks = render_marked(chat.template, messages, chat.names, False, more)
            texts = [(whole, _chosen_marks(where, messages, learned, marks))]
        else:
            whole = chat.prompt(messages, False, more)
            texts = _by_beginnings(chat, tokenizer, conversation, whole)
        _check_nothing_left_out(where, messages, texts[-1][0])
        return [example_of_text(tokenizer, text, spans) for text, spans in texts]
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from None


def _by_beginnings(chat: Chat, tokenizer, conversation: Conversation, whole: str) -> list[tuple[str, list[Span]]]:
    """(text, spans of answers) of each example."""
    messages, more, found = conversation.messages, conversation.more, []
    answers = [number for number, is_learned in enumerate(conversation.learned) if is_learned]
    for number in answers:
        prompt = _prompt_before(chat, conversation, number)
        upto = chat.prompt(messages[: number + 1], False, more) if number + 1 < len(messages) else whole
        # most prompts are beginnings of what follows; some open what an answer may leave out, as
        # <think>
        first = len(commonprefix([prompt, upto]))
        content = messages[number].get("content", "").strip()
        if content.rpartition("</think>")[2].strip() not in upto[first:]:
            raise UserError(
                f"{conversation.where}: the template does not write message {number + 1}, of the assistant, after the "
                "prompt for it: its answers cannot be found; use another with --chat-template"
            )
        found.append((upto, first))
    special = [token for token in special_tokens(tokenizer) if token]
    in_whole = [(first, _end_in(whole, upto, special)) for upto, first in found]
    if all(end is not None and whole[:first] == upto[:first] for (first, end), (upto, _) in zip(in_whole, found)):
        return [(whole, [_answer(chat, tokenizer, whole, span, special) for span in in_whole])]
    return [(upto, [_answer(chat, tokenizer, upto, (first, len(upto)), special)]) for upto, first in found]


def _prompt_before(chat: Chat, conversation: Conversation, number: int) -> str:
    try:
        return chat.prompt(conversation.messages[:number], True, conversation.more)
    except UserError:
        if number:
            raise
        return ""  # the assistant speaks first, and the template makes no prompt of nothing


def _end_in(whole: str, upto: str, special: Sequence[str]) -> int | None:
    """Where a beginning ends in the whole text; None if it is none. What some templates write at
    the very end alone, an EOS, is not counted.
    """
    for _ in range(MOST_ENDS):
        if whole.startswith(upto):
            return len(upto)
        last = max((token for token in special if upto.endswith(token)), key=len, default="")
        if not last:
            return None
        upto = upto.removesuffix(last)
    return None


def _answer(chat: Chat, tokenizer, text: str, span: Span, special: Sequence[str]) -> Span:
    """A span without what the template writes after the token that ends the answer."""
    first, end = span
    turn_end = chat.end_of_turn(tokenizer)
    if turn_end is not None:
        token = next(token for token, index in special_tokens(tokenizer).items() if index == turn_end)
        at = text.rfind(token, first, end)
        if at >= 0:
            return first, at + len(token)
    stripped = text[first:end].rstrip()
    return (first, first + len(stripped)) if stripped.endswith(tuple(special)) else span


def _chosen_marks(where: str, messages: list[dict], learned: Sequence[bool], marks: list[Span]) -> list[Span]:
    """The marks of the answers that are learned."""
    answers = [is_learned for message, is_learned in zip(messages, learned) if message["role"] == ASSISTANT]
    if all(answers):
        chosen = marks
    elif len(marks) == len(answers):
        chosen = [mark for mark, is_learned in zip(marks, answers) if is_learned]
    else:
        raise UserError(
            f"{where}: it has answers of weight 0, and the template marks {len(marks)} places for {len(answers)} answers: "
            "delete the line, or use another template with --chat-template"
        )
    if not any(end > first for first, end in chosen):
        raise UserError(f"{where}: the template marks no text of the assistant: use another with --chat-template")
    return chosen


def _check_nothing_left_out(where: str, messages: list[dict], text: str) -> None:
    """Raises UserError if a question or a system message is not in the text."""
    seen = "".join(text.split())
    for number, message in enumerate(messages, start=1):
        if message["role"] != ASSISTANT and "".join(message.get("content", "").split()) not in seen:
            raise UserError(
                f"{where}: the template leaves out message {number}, of the {message['role']}: move its text into "
                "another message, or use another template with --chat-template"
            )


# ---------------------------------------------------------------------------------------------- from text to tokens


def example_of_text(tokenizer, text: str, spans: list[Span]) -> Example:
    """The tokens of a text, with a mark on those that overlap the spans."""
    ids = encode_text(tokenizer, text)
    learned = np.zeros(len(ids), bool)
    bounds = token_bounds(tokenizer, text, ids)
    for first, end in spans:
        if bounds is None:
            begin, behind = _common(tokenizer, text, first, ids)[0], _common(tokenizer, text, end, ids)
            learned[begin : behind[0] + (behind[0] < behind[1])] = True  # a token across the end counts
        else:
            first, end = (len(text[:at].encode("utf-8")) for at in (first, end))
            learned |= (bounds[:-1] < end) & (bounds[1:] > first)
    return Example(ids, learned, text, spans)


def token_bounds(tokenizer, text: str, ids: list[int]) -> np.ndarray | None:
    """(N + 1,): where each token begins in the text's bytes, and the end; None for a tokenizer that
    changes the text, for example its case.

    A space that the tokenizer puts before a word, and that the text does not have, is not counted.
    """
    data, at, bounds = text.encode("utf-8"), 0, [0]
    for index in ids:
        piece = tokenizer.token_bytes(index)
        if not data.startswith(piece, at):
            piece = piece.removeprefix(b" ")
            if not data.startswith(piece, at):
                return None
        at += len(piece)
        bounds.append(at)
    return np.array(bounds) if at == len(data) else None


def _common(tokenizer, text: str, at: int, ids: list[int]) -> tuple[int, int]:
    """(how many tokens text[:at] and the whole text begin with in common, how many text[:at]
    has).
    """
    beginning = encode_text(tokenizer, text[:at])
    differing = (number for number, (one, other) in enumerate(zip(beginning, ids)) if one != other)
    return next(differing, min(len(beginning), len(ids))), len(beginning)


def describe_roles(chat: Chat, conversation: Conversation, text: str) -> list[tuple[str, int]]:
    """(role, where its message ends in the text) for each message that has an end of its own;
    the last one ends with the text.
    """
    found: list[tuple[str, int]] = []
    for number, message in enumerate(conversation.messages[:-1], start=1):
        try:
            upto = chat.prompt(conversation.messages[:number], False, conversation.more)
        except UserError:
            continue
        at = len(commonprefix([upto, text]))
        if not found or at > found[-1][1]:
            found.append((message["role"], at))
    return [*found, (conversation.messages[-1]["role"], len(text))]
