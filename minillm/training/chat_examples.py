"""Conversations: the model learns to write the assistant's answers.

    training/train.npy, validation.npy                    the ids of all examples, one after the other
    training/train-learned.npy, ...                       1 for each id that is learned
    training/train-ends.npy, ...                          where each example ends in them
    training/chat.json                                    what was done to the files, for the terminal
    chat_template.jinja                                   the template that they were written with

The loss is the mean over all learned tokens of a step. Short conversations share a row of the
context length, without attention between them: a batch has `starts` then (layers/documents.py).
Rows are packed once (data/packing.py); every pass over them has an order of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from os.path import commonprefix
from pathlib import Path

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import open_tokens, write_tokens
from minillm.data.conversations import read_conversations
from minillm.data.encode_files import ALONE, Reading
from minillm.data.packing import pack, packed_row
from minillm.errors import UserError
from minillm.files.atomic import json_bytes, read_json, write_atomically
from minillm.files.model_folder import GENERATION_FILE
from minillm.generation.text import write
from minillm.models.carried import TEMPLATE_FILE
from minillm.pretrained.chat import ANSWER, QUESTION, Chat, chat_of
from minillm.pretrained.training_template import training_chat
from minillm.training.chat_encoding import Tokens, encoded, first_question, in_both, remarks
from minillm.training.checkpoint import TRAINING_FOLDER
from minillm.training.examples import PARTS, TRAINING, VALIDATION, Examples, prompt_option

FILES = {TRAINING: "train", VALIDATION: "validation"}
FACTS_FILE = "chat.json"
EVERY = 10  # without a file of its own, the validation part is every tenth conversation


class ChatExamples(Examples):
    """Conversations of both parts.

    tokens: by part. chat: the template. facts: the contents of chat.json.
    """

    names = {TRAINING: "training conversations", VALIDATION: "validation conversations"}
    whole_validation = "all validation conversations"
    fact_names = ("ends", "stop", "unlike", "held", "unread", "question", "in_both", *PARTS)  # of chat.json

    def __init__(self, tokens: dict[str, Tokens], chat: Chat, facts: dict, settings, context_length: int):
        self.tokens, self.chat, self.contents = tokens, chat, facts
        self.size, self._seed = (settings.batch_size, context_length), settings.seed
        self._micro_steps = settings.gradient_accumulation
        self.ends = tuple(facts["ends"])
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
    def read(settings, reading: Reading = ALONE) -> dict:
        """Conversations of both parts, and the fields of the files that were not read."""
        found, unread = read_conversations(settings.chat_data)
        if settings.chat_validation:
            validation, also_unread = read_conversations(settings.chat_validation)
            return {TRAINING: found, VALIDATION: validation, "held": "", "unread": unread + also_unread}
        if len(found) < 2:
            raise UserError(
                f"{found[0].where} is the only conversation: one is needed to learn from, and another to validate on"
            )
        if len(found) < EVERY:
            return {TRAINING: found[:-1], VALIDATION: found[-1:], "held": "the last one", "unread": unread}
        training = [each for number, each in enumerate(found, start=1) if number % EVERY]
        return {TRAINING: training, VALIDATION: found[EVERY - 1 :: EVERY], "held": f"every {EVERY}th", "unread": unread}

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
        ends = chat.answer_ends(tokenizer)
        facts = {
            "ends": sorted(ends),
            "unlike": _unlike_prompt(chat),
            "stop": [end] if end else [],
            "held": source["held"],
            "unread": dict(source["unread"]),
        }
        facts |= {"question": first_question(source[VALIDATION]), "in_both": in_both(source)}
        tokens = {}
        for part in PARTS:
            tokens[part], facts[part] = encoded(source[part], part, chat, tokenizer, settings, config.context_length)
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
        facts = read_json(training / FACTS_FILE)
        if missing := [name for name in cls.fact_names if name not in facts]:
            raise UserError(f"{training / FACTS_FILE} is incomplete: {missing[0]} is missing")
        chat = chat_of(folder) if (folder / TEMPLATE_FILE).is_file() else None  # pairs of texts have none
        return cls(tokens, chat, facts, settings, config.context_length)

    def write(self, folder: Path) -> None:
        """Write the examples, the template, and that an answer's end ends what is generated."""
        training = folder / TRAINING_FOLDER
        for part, name in FILES.items():
            tokens = self.tokens[part]
            for suffix, values in (("", tokens.ids), ("-learned", tokens.learned), ("-ends", tokens.ends)):
                write_tokens(training / f"{name}{suffix}.npy", values)
        write_atomically(training / FACTS_FILE, json_bytes(self.contents))
        if self.chat is not None:
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
        """Files, conversations, tokens and rows of both parts, and remarks on them."""
        lines = [f"{', '.join(settings.chat_data)}:"]
        for part, purpose in ((TRAINING, "learn from"), (VALIDATION, "validate on")):
            lines.append(f"{self._described(part)} to {purpose}")
        if self.contents["held"]:
            lines[-1] += f" ({self.contents['held']})"
        return [*lines, *remarks(self.contents, self.size[1])]

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
        if self.contents["unlike"]:
            yield (
                f"the template's prompt for an answer ends in {self.contents['unlike']!r}, which it does not write before "
                "the answers of a conversation: the model learns them without it"
            )
        if not self.contents["ends"] and not self.contents["stop"]:
            yield "the template writes nothing after an answer: the model will not learn where an answer ends"

    def options_to_try(self, tokenizer, can_be_shown) -> str:
        """--chat with a question of the validation part."""
        question = self.contents["question"]
        if not question or question.startswith("-") or "\n" in question or not can_be_shown(question):
            return "--chat --prompt ..."
        return f"--chat {prompt_option(question)}"


def _unlike_prompt(chat: Chat) -> str:
    """What the prompt for an answer has at its end, and a conversation does not have before the
    answer.
    """
    question, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
    try:
        prompt, whole = chat.prompt([question]), chat.prompt([question, answer], add_generation_prompt=False)
    except UserError:  # it needs other messages
        return ""
    return prompt[len(commonprefix([prompt, whole])) :]
