"""Conversations: the model learns to write the assistant's answers.

    training/train.npy, validation.npy                    the ids of all examples, one after the other
    training/train-learned.npy, ...                       1 for each id that is learned
    training/train-ends.npy, ...                          where each example ends in them
    training/chat.json                                    what was done to the files, for the terminal
    chat_template.jinja                                   the template that they were written with

The loss is the mean over all learned tokens of a step. Short conversations share a row of the context
length, without attention between them: a batch has `starts` then, and rotary or learned positions
begin anew (data/packing.py). Rows are packed once; every pass over them has an order of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import open_tokens, write_tokens
from minillm.data.conversations import Conversation, read_conversations
from minillm.data.packing import pack, packed_row
from minillm.data.special import refuse_tokens, special_tokens
from minillm.errors import UserError
from minillm.files.atomic import json_bytes, read_json, write_atomically
from minillm.files.model_folder import GENERATION_FILE
from minillm.generation.text import write
from minillm.models.carried import TEMPLATE_FILE
from minillm.pretrained.chat import Chat, chat_of
from minillm.pretrained.chat_mask import examples_of
from minillm.pretrained.training_template import training_chat
from minillm.training.checkpoint import TRAINING_FOLDER
from minillm.training.examples import PARTS, TRAINING, VALIDATION, Examples, prompt_option

FILES = {TRAINING: "train", VALIDATION: "validation"}
FACTS_FILE = "chat.json"
EVERY = 10  # without a file of its own, the validation part is every tenth conversation


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


class ChatExamples(Examples):
    """Conversations of both parts.

    tokens: by part. chat: the template. facts: the contents of chat.json.
    """

    names = {TRAINING: "training conversations", VALIDATION: "validation conversations"}

    def __init__(self, tokens: dict[str, Tokens], chat: Chat, facts: dict, settings, context_length: int):
        self.tokens, self.chat, self.contents = tokens, chat, facts
        self.size, self._seed = (settings.batch_size, context_length), settings.seed
        self._micro_steps = settings.gradient_accumulation
        self.rows = {part: self._rows_of(tokens[part], settings.packing) for part in PARTS}

    def _rows_of(self, tokens: Tokens, packing: bool) -> list[list[int]]:
        if not packing:
            return [[number] for number in range(len(tokens))]
        return pack((tokens.lengths - 1).tolist(), self.size[1])

    @staticmethod
    def is_named_in(settings) -> bool:
        """Whether there are files of conversations."""
        return bool(settings.chat_data)

    @staticmethod
    def read(settings) -> dict:
        """Conversations of both parts, and the fields of the files that were not read."""
        found, unread = read_conversations(settings.chat_data)
        if settings.chat_validation:
            validation, also_unread = read_conversations(settings.chat_validation)
            return {TRAINING: found, VALIDATION: validation, "unread": unread + also_unread}
        if len(found) < 2:
            raise UserError(
                f"{found[0].where} is the only conversation: one is needed to learn from, and another to validate on"
            )
        held = [(number + 1) % EVERY == 0 for number in range(len(found))]
        if not any(held):
            held[-1] = True
        parts = [[each for each, is_held in zip(found, held) if is_held == wanted] for wanted in (False, True)]
        return {TRAINING: parts[0], VALIDATION: parts[1], "unread": unread}

    @staticmethod
    def make_tokenizer(settings, source, architecture):
        """Raises UserError: conversations are taught to a model that can write."""
        raise UserError("--chat-data teaches a model to answer: name the model that it continues from with --init")

    @classmethod
    def encode(cls, source: dict, settings, config, tokenizer) -> ChatExamples:
        """The ids of both parts. Raises UserError for a conversation that the template or the
        tokenizer cannot take, and where nothing is left to learn from.
        """
        chat = training_chat(settings.init, settings.chat_template, tokenizer)
        end = chat.end_text(tokenizer)
        ends = {special_tokens(tokenizer).get(chat.eos), chat.end_of_turn(tokenizer)} - {None}
        facts = {"ends": sorted(ends), "stop": [end] if end else [], "unread": dict(source["unread"])}
        facts |= {"question": _question(source[VALIDATION]), "in_both": _in_both(source)}
        tokens = {}
        for part in PARTS:
            tokens[part], facts[part] = _encoded(source[part], part, chat, tokenizer, settings, config.context_length)
        return cls(tokens, chat, facts, settings, config.context_length)

    @classmethod
    def open(cls, folder: Path, settings, config, tokenizer) -> ChatExamples:
        """The ids of both parts, mapped into memory."""
        training, tokens = folder / TRAINING_FOLDER, {}
        for part, name in FILES.items():
            ids = open_tokens(training / f"{name}.npy", config.vocab_size)
            learned = open_tokens(training / f"{name}-learned.npy", 2)
            ends = open_tokens(training / f"{name}-ends.npy", len(ids) + 1)
            tokens[part] = Tokens(ids, learned, ends)
            lengths = tokens[part].lengths
            if len(learned) != len(ids) or not len(ends) or ends[-1] != len(ids) or lengths.min() < 2:
                raise UserError(f"{training}: the files {name}*.npy do not belong together: the run folder is damaged")
            if lengths.max() > config.context_length + 1:
                raise UserError(f"{training / name}-ends.npy: an example is longer than the context: it is damaged")
        return cls(tokens, chat_of(folder), read_json(training / FACTS_FILE), settings, config.context_length)

    def write(self, folder: Path) -> None:
        """Write the examples, the template, and that an answer's end ends what is generated."""
        training = folder / TRAINING_FOLDER
        for part, name in FILES.items():
            tokens = self.tokens[part]
            for suffix, values in (("", tokens.ids), ("-learned", tokens.learned), ("-ends", tokens.ends)):
                write_tokens(training / f"{name}{suffix}.npy", values)
        write_atomically(training / FACTS_FILE, json_bytes(self.contents))
        write_atomically(folder / TEMPLATE_FILE, self.chat.template.encode("utf-8"))
        if self.contents["ends"]:
            path = folder / GENERATION_FILE
            generation = read_json(path) if path.is_file() else {}
            known = generation.get("eos_token_id")
            known = known if isinstance(known, list) else [] if known is None else [known]
            ends = sorted({*known, *self.contents["ends"]})
            generation["eos_token_id"] = ends if len(ends) > 1 else ends[0]
            write_atomically(path, json_bytes(generation))

    # ---------------------------------------------------------------------------------------------------- batches

    def batch(self, step: int, micro_step: int) -> tuple:
        """The next rows in the order of the present pass over all of them."""
        first, count = (step * self._micro_steps + micro_step) * self.size[0], len(self.rows[TRAINING])
        orders = {}
        chosen = []
        for place in range(first, first + self.size[0]):
            turn, at = divmod(place, count)
            if turn not in orders:
                orders[turn] = np.argsort(stream(self._seed, "order", turn).uniform(count), kind="stable")
            chosen.append(int(orders[turn][at]))
        return self._gathered(TRAINING, chosen)

    def evaluation_batches(self, part: str, limit: int | None = None) -> Iterator[tuple]:
        """All rows, or `limit` evenly spaced ones."""
        chosen = np.arange(len(self.rows[part]))
        if limit and limit < len(chosen):
            chosen = chosen[np.linspace(0, len(chosen) - 1, limit).round().astype(np.int64)]
        for first in range(0, len(chosen), self.size[0]):
            yield self._gathered(part, chosen[first : first + self.size[0]].tolist())

    def _gathered(self, part: str, chosen: list[int]) -> tuple:
        """(ids, targets) of some rows, and starts where a row has several conversations."""
        tokens, rows = self.tokens[part], [self.rows[part][row] for row in chosen]
        packed = [packed_row([tokens[number] for number in row], self.size[1]) for row in rows]
        ids, targets, starts = (np.stack(each) for each in zip(*packed))
        # what is left of a row comes behind the one conversation in it, which does not see it
        return (ids, targets, starts) if any(len(row) > 1 for row in rows) else (ids, targets)

    # ------------------------------------------------------------------------------------------ what people are shown

    def sample(self, model, tokenizer, sampler, max_tokens: int) -> str:
        """The first validation conversation up to its first answer, and the model's own answer."""
        ids, learned = self.tokens[VALIDATION][0]
        prompt = [int(index) for index in ids[: int(np.argmax(learned))]]
        ends = dict(eos_ids=self.contents["ends"], stop=self.contents["stop"])
        *_, (answer,) = write(model, tokenizer, [prompt], max_tokens, sampler, **ends)
        return tokenizer.decode(prompt) + answer.text

    def sample_heading(self, tokenizer) -> str:
        """Where the prompt of a sample comes from."""
        return "a validation conversation, and the model's answer"

    def summary(self, settings, tokenizer) -> list[str]:
        """Files, conversations, tokens and rows of both parts; what was cut, left out or not read."""
        lines = [f"{', '.join(settings.chat_data)}:"]
        for part, purpose in ((TRAINING, "learn from"), (VALIDATION, "validate on")):
            lines.append(f"{self._described(part)} to {purpose}")
        if not settings.chat_validation:
            lines[-1] += f" (every {EVERY}th)" if self.contents[VALIDATION]["given"] > 1 else " (the last one)"
        return [*lines, *_remarks(self.contents, self.size[1])]

    def _described(self, part: str) -> str:
        tokens, rows, given = self.tokens[part], len(self.rows[part]), self.contents[part]["given"]
        conversations = f"{given:,} conversation{'s' * (given != 1)}"
        learned = int(np.sum(tokens.learned, dtype=np.int64))
        return (
            f"{conversations}, {len(tokens.ids):,} tokens, of them {learned:,} of the assistant, "
            f"in {rows:,} row{'s' * (rows != 1)} of {self.size[1]}"
        )

    def facts(self) -> dict[str, int]:
        """How many tokens the assistant's answers have."""
        counts = {part: int(np.sum(self.tokens[part].learned, dtype=np.int64)) for part in PARTS}
        return {"train_tokens": counts[TRAINING], "validation_tokens": counts[VALIDATION]}

    def notes(self, settings) -> Iterator[str]:
        """Remarks where a batch has more rows than there are, and where no answer has an end."""
        rows = len(self.rows[TRAINING])
        if settings.batch_size > rows:
            yield f"a batch has {settings.batch_size} rows, and the conversations fill {rows}: they are drawn several times"
        if not self.contents["ends"] and not self.contents["stop"]:
            yield "the template writes nothing after an answer: the model will not learn where an answer ends"

    def options_to_try(self, tokenizer, can_be_shown) -> str:
        """--chat with a question of the validation part."""
        question = self.contents["question"]
        if not question or question.startswith("-") or "\n" in question or not can_be_shown(question):
            return "--chat --prompt ..."
        return f"--chat {prompt_option(question)}"


# --------------------------------------------------------------------------------------------------------- encoding


def _encoded(conversations: list[Conversation], part: str, chat: Chat, tokenizer, settings, context: int):
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
        for text in texts:
            try:
                refuse_tokens(tokenizer, text)
            except UserError as error:
                raise UserError(f"{conversation.where}: {error}") from None
    names = [token for token in special_tokens(tokenizer) if token]
    done["special"] += any(token in text for text in texts for token in names)


def _in_both(source: dict) -> int:
    """How many validation conversations are training conversations as well."""
    seen = {json.dumps(each.messages, sort_keys=True) for each in source[TRAINING]}
    return sum(json.dumps(each.messages, sort_keys=True) in seen for each in source[VALIDATION])


def _question(conversations: list[Conversation]) -> str:
    """The first thing that a user says in the validation part."""
    said = (each.get("content", "") for found in conversations for each in found.messages if each["role"] == "user")
    return next(said, "")


def _remarks(facts: dict, context: int) -> Iterator[str]:
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
