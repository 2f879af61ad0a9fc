"""Pairs of answers in files: one that is preferred to the other, as data sets for DPO have them.

TRL's, with the prompt by itself or at the start of both answers, as texts or as messages:

    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    {"prompt": [{"role": "user", ...}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}

UltraFeedback's (binarized), Anthropic's hh-rlhf, Orca's, Alpaca's, LLaMA-Factory's and OpenAI's:

    {"prompt": "Hi", "chosen": [{"role": "user", "content": "Hi"}, ...], "score_chosen": 8, ...}
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi ..."}
    {"system": "Be brief.", "question": "Hi", "chosen": "Hello.", "rejected": "No."}
    {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}
    {"conversations": [{"from": "human", ...}], "chosen": {"from": "gpt", "value": ...}, ...}
    {"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}

Texts stay texts, without a chat template: what the file has is what the model reads. Messages, and
what has the roles of a conversation in another way, become messages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from os.path import commonprefix
from pathlib import Path

from minillm.data.conversations import ASSISTANT, SHAREGPT_ROLES, Conversation, conversation_of
from minillm.data.json_lines import kind_of_json, read_objects
from minillm.errors import UserError

TURN = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")  # of hh-rlhf
TURN_ROLES = {"Human": "user", "Assistant": ASSISTANT}
PROMPTS = ("prompt", "question", "instruction", "conversations", "conversation", "messages")
SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)  # fmt: skip
OPENAI = ("input", "preferred_output", "non_preferred_output")
TEMPLATE_FIELDS = ("tools", "functions", "chat_template_kwargs", "parallel_tool_calls")
READ = {
    *PROMPTS,
    *OPENAI,
    *TEMPLATE_FIELDS,
    *(name for pair in SCORES for name in pair),
    "chosen",
    "rejected",
    "system",
}
FORM = '{"prompt": ..., "chosen": ..., "rejected": ...}'


@dataclass(frozen=True)
class TextPair:
    """Two texts that go on from one prompt. where: file and line."""

    where: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ConversationPair:
    """Two conversations with the same beginning; learned are the answers behind it alone."""

    where: str
    chosen: Conversation
    rejected: Conversation


@dataclass(frozen=True)
class Preferences:
    """What files hold.

    pairs: in their order. ties: how many have the same answer twice, and empty: how many have an
    answer without text; both are left out. against: how many have a score that is not higher for
    the chosen answer. unread: fields that were not read.
    """

    pairs: list[TextPair | ConversationPair]
    ties: int
    empty: int
    against: int
    unread: Counter


def read_preferences(paths: Iterable[str | Path], as_messages: bool = False) -> Preferences:
    """The pairs of files. as_messages: a prompt and answers that are texts become what a user says
    and what the assistant answers.

    Raises UserError, naming file, line, what is wrong and the cure, for the first one that is
    wrong.
    """
    pairs, unread, count = [], Counter(), Counter()
    for path in paths:
        for where, contents in read_objects(path):
            pair = pair_of(where, contents, as_messages)
            count[pair if isinstance(pair, str) else "pairs"] += 1
            count["against"] += _is_against(contents)
            unread.update(name for name, value in contents.items() if name not in READ and value is not None)
            if not isinstance(pair, str):
                pairs.append(pair)
    return Preferences(pairs, count[TIE], count[EMPTY], count["against"], unread)


TIE, EMPTY = "tie", "empty"  # what pair_of returns where there is nothing to learn


def pair_of(where: str, contents: dict, as_messages: bool = False) -> TextPair | ConversationPair | str:
    """The pair of one JSON object; TIE where both answers are the same, EMPTY where one has no
    text. Raises UserError.
    """
    contents = _in_usual_names(where, contents)
    answers = [_answer(where, name, contents.get(name)) for name in ("chosen", "rejected")]
    if any(not answer or (isinstance(answer, str) and not answer.strip()) for answer in answers):
        return EMPTY
    if isinstance(answers[0], str) != isinstance(answers[1], str):
        raise UserError(f"{where}: of chosen and rejected one is a text and the other a list: write both in one form")
    prompt = _prompt(where, contents, answers)
    if isinstance(answers[0], str) and isinstance(prompt, str):
        if _is_transcript(prompt + answers[0]) and _is_transcript(prompt + answers[1]):
            prompt, answers = [], [_turns(prompt + answer) for answer in answers]
        elif not (contents.get("system") or as_messages or _has_roles(contents)):
            return _text_pair(where, prompt, *answers)
    return _conversation_pair(where, contents, prompt, answers)


# --------------------------------------------------------------------------------------------- the fields of an object


def _in_usual_names(where: str, contents: dict) -> dict:
    """OpenAI's form as prompt, chosen and rejected."""
    if "preferred_output" not in contents and "non_preferred_output" not in contents:
        return contents
    given = contents.get("input")
    if not isinstance(given, dict) or "messages" not in given:
        raise UserError(f'{where}: write {{"input": {{"messages": [...]}}, "preferred_output": [...], ...}}')
    named = {"prompt": given["messages"], "chosen": contents.get("preferred_output")}
    named["rejected"] = contents.get("non_preferred_output")
    return named | {name: given[name] for name in TEMPLATE_FIELDS if given.get(name) is not None}


def _answer(where: str, name: str, value):
    """A text, or a list of messages."""
    if isinstance(value, dict):  # one message by itself
        value = [value]
    if value is None:
        raise UserError(f"{where}: {name} is missing: a pair has two answers, {FORM}")
    if not isinstance(value, (str, list)):
        raise UserError(f"{where}: {name} is {kind_of_json(value)}: it has to be a text or a list of messages")
    last = value[-1] if isinstance(value, list) and value else None
    if isinstance(last, dict) and not (last.get("content", last.get("value")) or last.get("tool_calls")):
        return None
    return value


def _prompt(where: str, contents: dict, answers: list):
    """A text, or a list of messages, empty where the answers begin with it."""
    whole = isinstance(answers[0], list) and _begins_with_a_prompt(answers[0])
    names = [name for name in PROMPTS if contents.get(name) is not None]
    if whole:  # UltraFeedback's field messages is the chosen conversation once more
        names = [name for name in names if name != "messages"]
    if not names:
        return "" if isinstance(answers[0], str) else []
    prompt = contents[names[0]]
    if isinstance(prompt, dict):
        prompt = [prompt]
    if not isinstance(prompt, (str, list)):
        raise UserError(f"{where}: {names[0]} is {kind_of_json(prompt)}: it has to be a text or a list of messages")
    if names[0] == "instruction" and isinstance(contents.get("input"), str) and contents["input"].strip():
        prompt = f"{prompt}\n{contents['input']}"
    if isinstance(prompt, str) and whole:
        said = [_said(message) for message in answers[0]]
        if prompt.strip() and not any(prompt.strip() in each for each in said):
            raise UserError(
                f"{where}: {names[0]} is not in the conversation of chosen: leave it out, or write the answers alone"
            )
        return []
    return prompt


def _begins_with_a_prompt(messages: list) -> bool:
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    return str(first.get("role", first.get("from"))).lower() in ("system", "developer", "user", "human")


def _said(message) -> str:
    said = message.get("content", message.get("value")) if isinstance(message, dict) else None
    return said if isinstance(said, str) else ""


def _has_roles(contents: dict) -> bool:
    """Whether the names of the fields say who speaks."""
    return contents.get("prompt") is None and any(contents.get(name) for name in ("question", "instruction"))


def _is_against(contents: dict) -> bool:
    """Whether there are scores, and that of the chosen answer is not the higher one."""
    for names in SCORES:
        scores = [contents.get(name) for name in names]
        if all(isinstance(score, (int, float)) and not isinstance(score, bool) for score in scores):
            return not scores[0] > scores[1]
    return False


# --------------------------------------------------------------------------------------------------------------- texts


def _text_pair(where: str, prompt: str, chosen: str, rejected: str) -> TextPair | str:
    if chosen == rejected:
        return TIE
    if prompt and chosen.startswith(prompt) and rejected.startswith(prompt):  # written again before both answers
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif not prompt:
        prompt = _common_beginning(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if not prompt:
            raise UserError(
                f"{where}: there is no prompt, and chosen and rejected do not begin with the same text: add the prompt, {FORM}"
            )
    if not chosen or not rejected:
        return EMPTY
    return TextPair(where, prompt, chosen, rejected)


def _common_beginning(one: str, other: str) -> str:
    """What two texts begin with in common, in whole words.

    >>> _common_beginning("The sky is blue.", "The sky is bright.")
    'The sky is'
    """
    common = commonprefix([one, other])
    if len(common) < min(len(one), len(other)) or not common[-1:].isspace():
        words = re.match(r".*(?=\s)", common, re.DOTALL)
        common = words[0] if words else ""
    return common.rstrip()


def _is_transcript(text: str) -> bool:
    """Whether it is a conversation as hh-rlhf writes it."""
    found = [turn[1] for turn in TURN.finditer(text)]
    return text.lstrip().startswith("Human:") and found[-1:] == ["Assistant"]


def _turns(text: str) -> list[dict]:
    turns = list(TURN.finditer(text))
    ends = [*(turn.start() for turn in turns[1:]), len(text)]
    return [{"role": TURN_ROLES[turn[1]], "content": text[turn.end() : end].strip()} for turn, end in zip(turns, ends)]


# ------------------------------------------------------------------------------------------------------- conversations


def _conversation_pair(where: str, contents: dict, prompt, answers: list) -> ConversationPair | str:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}] if prompt.strip() else []
    if isinstance(answers[0], str):
        answers = [[{"role": ASSISTANT, "content": answer}] for answer in answers]
    if any(not _said(answer[-1]).strip() and not _calls(answer[-1]) for answer in answers):
        return EMPTY
    found = []
    more = {name: contents[name] for name in (*TEMPLATE_FIELDS, "system") if contents.get(name) is not None}
    for name, answer in zip(("chosen", "rejected"), answers):
        messages = answer if prompt and answer[: len(prompt)] == prompt else [*prompt, *answer]
        found.append(conversation_of(f"{where}: {name}", {"messages": messages, **more}))
        if _role(messages[-1]) != ASSISTANT:
            raise UserError(f"{where}: {name} does not end with a message of the assistant: take away what follows it")
    if found[0].messages == found[1].messages:
        return TIE
    common = _common_messages(where, *(each.messages for each in found))
    learned = (
        replace(each, learned=tuple(n >= common and is_ for n, is_ in enumerate(each.learned))) for each in found
    )
    return ConversationPair(where, *learned)


def _role(message) -> str | None:
    if not isinstance(message, dict):
        return None
    return message.get("role", SHAREGPT_ROLES.get(str(message.get("from")).lower()))


def _calls(message) -> bool:
    return isinstance(message, dict) and bool(message.get("tool_calls") or message.get("function_call"))


def _common_messages(where: str, chosen: list[dict], rejected: list[dict]) -> int:
    """How many messages both conversations begin with; the next one has to be an answer."""
    common = next(
        (n for n, pair in enumerate(zip(chosen, rejected)) if pair[0] != pair[1]), min(len(chosen), len(rejected))
    )
    if common == min(len(chosen), len(rejected)):
        raise UserError(f"{where}: one answer is the beginning of the other: write the answers by themselves")
    if not common:
        raise UserError(f"{where}: there is no prompt that both answers follow: add it, {FORM}")
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[common]["role"] != ASSISTANT:
            raise UserError(
                f"{where}: chosen and rejected answer different prompts: message {common + 1} of {name} is of the "
                f"{messages[common]['role']}, and differs"
            )
    return common
