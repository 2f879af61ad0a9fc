"""Conversations as ids for one model, and what is said about it at the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minillm.data.conversations import Conversation
from minillm.data.special import refuse_tokens, special_tokens
from minillm.errors import UserError
from minillm.pretrained.chat import Chat
from minillm.pretrained.chat_mask import examples_of
from minillm.training.examples import TRAINING, VALIDATION


@dataclass(frozen=True)
class Tokens:
    """The examples of a part: ids (N,), learned (N,) of 0 and 1, and ends (n,), where each example
    ends in them.
    """

    ids: np.ndarray
    learned: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """ids and learned of an example."""
        first, end = (int(self.ends[number - 1]) if number else 0), int(self.ends[number])
        return self.ids[first:end], self.learned[first:end].astype(bool)

    @property
    def lengths(self) -> np.ndarray:
        """How many ids each example has."""
        return np.diff(np.asarray(self.ends, np.int64), prepend=0)


def encoded(conversations: list[Conversation], part: str, chat: Chat, tokenizer, settings, context: int):
    """(Tokens, what was done) of one part."""
    done = Counter(given=len(conversations), split=0, cut=0, left_out=0, special=0)
    ids, learned, ends = [], [], []
    for conversation in conversations:
        _refuse_special(conversation, tokenizer, settings.special, done)
        examples = examples_of(chat, tokenizer, conversation)
        done["split"] += len(examples) > 1
        for example in examples:
            kept = example.learned[1 : context + 1]  # the first token is no target
            if not kept.any():
                done["left_out"] += 1
                continue
            done["cut"] += len(example.ids) > context + 1
            ids.append(np.asarray(example.ids[: context + 1], np.int64))
            learned.append(example.learned[: context + 1])
            ends.append(len(ids[-1]) + (ends[-1] if ends else 0))
    if not ids:
        raise UserError(
            f"no {part} conversation has an answer within the context of {context} tokens: "
            "use shorter ones, or a model or --context-length with a longer context"
        )
    ends_at = np.array(ends)
    return Tokens(np.concatenate(ids), np.concatenate(learned).astype(np.uint8), ends_at), dict(done)


def _refuse_special(conversation: Conversation, tokenizer, special: str, done: Counter) -> None:
    texts = [str(message.get("content", "")) for message in conversation.messages]
    if special == "refuse":
        refuse_special_in(texts, conversation.where, tokenizer)
    names = [token for token in special_tokens(tokenizer) if token]
    done["special"] += any(token in text for text in texts for token in names)


def refuse_special_in(texts: list[str], where: str, tokenizer) -> None:
    """Raises UserError, naming where the texts are from, if one of them has a special token."""
    try:
        for text in texts:
            refuse_tokens(tokenizer, text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def in_both(source: dict) -> int:
    """How many validation conversations are training conversations as well."""
    seen = {json.dumps(each.messages, sort_keys=True) for each in source[TRAINING]}
    return sum(json.dumps(each.messages, sort_keys=True) in seen for each in source[VALIDATION])


def first_question(conversations: list[Conversation]) -> str:
    """The first thing that a user says in the validation part."""
    said = (each.get("content", "") for found in conversations for each in found.messages if each["role"] == "user")
    return next(said, "")


def remarks(facts: dict, context: int) -> Iterator[str]:
    total = Counter(facts[TRAINING]) + Counter(facts[VALIDATION])
    if total["split"]:
        yield (
            f"{total['split']:,} conversations became an example for each answer: the template writes an earlier answer "
            "in another way than the last one"
        )
    if total["cut"]:
        yield f"{total['cut']:,} were longer than the context of {context} tokens, and were cut at its end"
    if total["left_out"]:
        yield f"{total['left_out']:,} were left out: their answers come after the context of {context} tokens"
    if total["special"]:
        yield (
            f"{total['special']:,} have the text of a special token in a message, which is read as that token; "
            "--special refuse names the first"
        )
    if facts["in_both"]:
        yield f"{facts['in_both']:,} validation conversations are among those to learn from as well"
    if facts["unread"]:
        names = ", ".join(f"{name} ({count:,})" for name, count in sorted(facts["unread"].items()))
        yield f"fields that were not read: {names}"
