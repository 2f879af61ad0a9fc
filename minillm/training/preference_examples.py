"""Preferences: the model learns to give the chosen answer rather than the rejected one.

    training/train.npy, ...           as of conversations (chat_examples.py): two texts for each pair,
                                      chosen before rejected; what is learned are their answers
    training/reference.safetensors    what the reference says of each answer (reference.py)

A batch has whole pairs, padded to the longest text among them. The padding comes behind the texts,
which do not see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minillm.data.conversations import Conversation
from minillm.data.encode_files import ALONE, Reading
from minillm.data.packing import padded_rows
from minillm.data.preferences import ConversationPair, Preferences, TextPair, read_preferences
from minillm.data.special import special_tokens
from minillm.errors import UserError
from minillm.pretrained.training_template import training_chat
from minillm.training.chat_encoding import Tokens
from minillm.training.chat_examples import EVERY, ChatExamples
from minillm.training.examples import PARTS, TRAINING, VALIDATION, prompt_option
from minillm.training.preference_encoding import encoded_pairs, text_ends
from minillm.training.preference_objective import DirectPreference
from minillm.training.reference import Reference, array_checksum


class PreferenceExamples(ChatExamples):
    """Pairs of both parts.

    tokens: by part, 2 N texts. rows: by part, the numbers of the two texts of each pair.
    """

    names = {TRAINING: "training pairs", VALIDATION: "validation pairs"}
    whole_validation = "all validation pairs"
    fact_names = ("ends", "stop", "files", "question", "texts", *PARTS)

    def __init__(self, tokens: dict[str, Tokens], chat, facts: dict, settings, context_length: int):
        super().__init__(tokens, chat, facts, settings, context_length)
        self.objective = DirectPreference(settings.dpo_beta, settings.dpo_label_smoothing)
        self.reference: Reference | None = None  # of a run folder

    def _rows_of(self, tokens: Tokens, packing: bool) -> list[list[int]]:
        return [[number, number + 1] for number in range(0, len(tokens), 2)]

    @staticmethod
    def is_named_in(settings) -> bool:
        """Whether there are files of pairs."""
        return bool(settings.preference_data)

    @staticmethod
    def read(settings, reading: Reading = ALONE) -> dict:
        """Pairs of both parts, and what the files have beside them."""
        as_messages = bool(settings.chat_template)
        found = read_preferences(settings.preference_data, as_messages)
        if settings.preference_validation:
            validation = read_preferences(settings.preference_validation, as_messages)
            return {TRAINING: found.pairs, VALIDATION: validation.pairs, "files": _counts(found, validation)}
        files = ", ".join(settings.preference_data)
        if len(found.pairs) < 2:
            raise UserError(
                f"{files}: {len(found.pairs)} of its pairs has two different answers: one is needed to learn from, and "
                "another to validate on"
            )
        held = [(number + 1) % EVERY == 0 for number in range(len(found.pairs))]
        held[-1] |= not any(held)
        parts = [[each for each, is_held in zip(found.pairs, held) if is_held == wanted] for wanted in (False, True)]
        return {TRAINING: parts[0], VALIDATION: parts[1], "files": _counts(found)}

    @staticmethod
    def make_tokenizer(settings, source, architecture):
        """Raises UserError: preferences are taught to a model that can write."""
        raise UserError("--preference-data changes a model that can write: name it with --init")

    @classmethod
    def encode(cls, source: dict, settings, config, tokenizer) -> PreferenceExamples:
        """The ids of both parts. Raises UserError for a pair that the template or the tokenizer
        cannot take, and where nothing is left to learn from.
        """
        pairs = [*source[TRAINING], *source[VALIDATION]]
        has_messages = any(isinstance(pair, ConversationPair) for pair in pairs)
        chat = training_chat(settings.init, settings.chat_template, tokenizer) if has_messages else None
        facts = {"files": source["files"], **_ends(chat, tokenizer), "question": _question(source[VALIDATION])}
        facts["texts"] = sum(isinstance(pair, TextPair) for pair in pairs)
        tokens = {}
        for part in PARTS:
            given = source[part], part, chat, tokenizer, settings.special, config.context_length
            tokens[part], facts[part] = encoded_pairs(*given)
        return cls(tokens, chat, facts, settings, config.context_length)

    @classmethod
    def open(cls, folder: Path, settings, config, tokenizer) -> PreferenceExamples:
        """The ids of both parts, and what is there of the reference."""
        examples = super().open(folder, settings, config, tokenizer)
        tokens = [(each.ids, each.learned, each.ends) for each in examples.tokens.values()]
        if any(len(each) % 2 for each in examples.tokens.values()):
            raise UserError(f"{folder}: an answer of a pair is missing in its folder training/: it is damaged")
        sizes = {part: len(examples.rows[part]) for part in PARTS}
        examples.reference = Reference(folder, sizes, array_checksum(*(array for each in tokens for array in each)))
        return examples

    def prepare(self, run, parallel, is_ended, report) -> bool:
        """Compute what the reference says of each answer, where that is still to be done."""
        self.reference.prepare(run.model, is_new=run.progress.step == 0)
        if self.reference.is_complete:
            return True
        return self.reference.compute(parallel, self._all_pairs, is_ended, report)

    preparing = "the reference model reads the pairs"

    # ---------------------------------------------------------------------------------------------------- batches

    def _gathered(self, part: str, chosen: list[int]) -> tuple:
        """(ids, targets, reference) of some pairs: see preference_objective.py."""
        reference = self.reference.values[part][chosen]
        if np.isnan(reference).any():
            raise UserError(f"{self.reference.path} is not complete: continue the run with --resume")
        return *self._texts(part, chosen), reference

    def _all_pairs(self, part: str) -> Iterator[tuple]:
        """(numbers, ids, targets) of all pairs, in the batches of an evaluation."""
        for first in range(0, len(self.rows[part]), self.size[0]):
            numbers = list(range(first, min(first + self.size[0], len(self.rows[part]))))
            yield numbers, *self._texts(part, numbers)

    def _texts(self, part: str, chosen: list[int]) -> tuple:
        """ids and targets (N, 2, T), T the longest of the texts."""
        texts = [self.tokens[part][number] for pair in chosen for number in self.rows[part][pair]]
        ids, targets = padded_rows(texts)
        return ids.reshape(-1, 2, ids.shape[-1]), targets.reshape(-1, 2, ids.shape[-1])

    def tokens_of_a_batch(self) -> float:
        """How many tokens a batch has on the average, those of prompts included."""
        return self.size[0] * len(self.tokens[TRAINING].ids) / len(self.rows[TRAINING])

    # ------------------------------------------------------------------------------------------ what people are shown

    def sample_heading(self, tokenizer) -> str:
        """Where the prompt of a sample comes from."""
        return "the prompt of a validation pair, and the model's answer"

    def summary(self, settings, tokenizer) -> list[str]:
        """Files and pairs of both parts; what was cut, left out or not read."""
        lines = [f"{', '.join(settings.preference_data)}:"]
        for part, purpose in ((TRAINING, "learn from"), (VALIDATION, "validate on")):
            tokens, pairs = self.tokens[part], len(self.rows[part])
            learned = int(np.sum(tokens.learned, dtype=np.int64))
            lines.append(
                f"{pairs:,} pair{'s' * (pairs != 1)}, {len(tokens.ids):,} tokens, of them {learned:,} of answers, to {purpose}"
            )
        if not settings.preference_validation:
            given = sum(self.contents[part]["given"] for part in PARTS)
            lines[-1] += f" (every {EVERY}th)" if given >= EVERY else " (the last one)"
        return [*lines, *_remarks(self.contents, self.size[1])]

    def notes(self, settings) -> Iterator[str]:
        """Remarks where a batch has more pairs than there are, and where no answer has an end."""
        pairs = len(self.rows[TRAINING])
        if settings.batch_size > pairs:
            yield f"a batch has {settings.batch_size} pairs, and there are {pairs}: they are drawn several times"
        if not self.contents["ends"] and not self.contents["stop"]:
            yield "nothing marks the end of an answer: that one is shorter than the other counts for nothing"

    def options_to_try(self, tokenizer, can_be_shown) -> str:
        """A prompt of the validation part: a question, or a text as the pairs have it."""
        if self.contents["texts"] < sum(self.contents[part]["given"] for part in PARTS):
            return super().options_to_try(tokenizer, can_be_shown)
        prompt = self.contents["question"]
        if not prompt or prompt.startswith("-") or "\n" in prompt or not can_be_shown(prompt):
            return "--prompt ..."
        return prompt_option(prompt)


def _counts(*files: Preferences) -> dict:
    """What is said of the files beside their pairs."""
    counts = {name: sum(getattr(each, name) for each in files) for name in ("ties", "empty", "against")}
    return {**counts, "unread": dict(sum((each.unread for each in files), Counter()))}


def _ends(chat, tokenizer) -> dict:
    """The tokens, and the text, that end an answer."""
    if chat is None:
        end = special_tokens(tokenizer).get(text_ends(tokenizer)[1])
        return {"ends": [] if end is None else [end], "stop": []}
    text = chat.end_text(tokenizer)
    ends = chat.answer_ends(tokenizer)
    return {"ends": sorted(ends), "stop": [text] if text else []}


def _question(pairs: list[TextPair | ConversationPair]) -> str:
    """The first prompt: a text, or what a user says first."""
    first = pairs[0] if pairs else None
    if isinstance(first, TextPair):
        return first.prompt.strip()
    chosen: Conversation | None = first and first.chosen
    said = (each.get("content", "") for each in (chosen.messages if chosen else ()) if each["role"] == "user")
    return next(said, "")


def _remarks(facts: dict, context: int) -> Iterator[str]:
    total, files = Counter(facts[TRAINING]) + Counter(facts[VALIDATION]), facts["files"]
    for count, one, several, rest in (
        (files["ties"] + total["same"], "has", "have", "the same answer twice, left out: a tie teaches nothing"),
        (files["empty"], "has", "have", "an answer without text, left out"),
        (files["against"], "has", "have", "scores that are not higher for the chosen answer: what chosen says is learned"),
        (total["cut"], "was", "were", f"longer than the context of {context} tokens, and cut at its end"),
        (total["left_out"], "was", "were", f"left out: an answer comes after the context of {context} tokens"),
        (
            total["special"], "has", "have",
            "the text of a special token, which is read as that token; --special refuse names the first",
        ),
    ):  # fmt: skip
        if count:
            yield f"{count:,} pair{'s' * (count != 1)} {one if count == 1 else several} {rest}"
    if files["unread"]:
        names = ", ".join(f"{name} ({count:,})" for name, count in sorted(files["unread"].items()))
        yield f"fields that were not read: {names}"
