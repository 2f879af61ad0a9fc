"""Windows of one text: each token is predicted from those before it.

training/train.npy         the ids of the first 90 % of the text
training/validation.npy    those of the rest
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import (
    encode_data,
    load_text,
    open_tokens,
    random_windows,
    sequential_windows,
    split_text,
    write_tokens,
)
from minillm.data.encode_files import ALONE, Reading
from minillm.data.special import END_OF_TEXT, end_of_text_note
from minillm.data.text_files import large_files
from minillm.errors import UserError
from minillm.generation import generate
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer
from minillm.tokenizers.start import first_prompt
from minillm.training.checkpoint import TRAINING_FOLDER
from minillm.training.examples import TRAINING, VALIDATION, Examples, prompt_option
from minillm.training.large_text import LargeText, TokensToWrite

DEFAULT_BYTE_PAIRS = 1024  # tokens
FILES = {TRAINING: "train.npy", VALIDATION: "validation.npy"}
TOKENS_LOOKED_AT = 10_000  # of the validation text, for a prompt to try


class TextExamples(Examples):
    """A text in two parts.

    tokens: the ids (N,) of each part. size: (B, T) of a batch.
    """

    def __init__(self, tokens: dict[str, np.ndarray], size: tuple[int, int], seed: int):
        self.tokens, self.size, self._seed = tokens, size, seed

    @staticmethod
    def is_named_in(settings) -> bool:
        """Always: there is a text by default."""
        return True

    @staticmethod
    def read(settings, reading: Reading = ALONE) -> str | LargeText:
        """The whole text, or what reads it part by part."""
        files = large_files(settings.data)
        return LargeText(files, reading) if files else load_text(list(settings.data))

    @staticmethod
    def make_tokenizer(settings, source: str | LargeText, architecture) -> Tokenizer:
        """A tokenizer of the characters of the whole text, or of the byte pairs of its training
        part.

        If documents are separated by <|endoftext|>, that is a token, and no pairs are learned from
        its letters.
        """
        is_large, tokens = isinstance(source, LargeText), settings.vocab_size or DEFAULT_BYTE_PAIRS
        if settings.tokenizer == "char":
            return source.characters() if is_large else CharacterTokenizer.train(source)
        known = () if settings.special == "text" else (*architecture.end_of_text, *END_OF_TEXT)
        if is_large:
            return source.byte_pairs(tokens, source.first_of(known), architecture.tokenizer_pattern)
        separators = [token for token in known if token in source][:1]
        training = split_text(source)[0]
        documents = training.split(separators[0]) if separators else training
        return BytePairTokenizer.train(documents, tokens, separators, architecture.tokenizer_pattern)

    @classmethod
    def encode(cls, source: str | LargeText, settings, config, tokenizer) -> TextExamples:
        """The ids of both parts; those of a large text are made when they are written. Raises
        UserError where a part is shorter than a window.
        """
        size = settings.batch_size, config.context_length
        if isinstance(source, LargeText):
            ids = [TokensToWrite(source, span, tokenizer, settings.special) for span in source.files.split]
            return cls(dict(zip(FILES, ids)), size, settings.seed)
        ids = [encode_data(tokenizer, part, settings.special) for part in split_text(source)]
        for name, part, least in zip(FILES, ids, (config.context_length + 1, 2)):
            if len(part) < least:
                raise UserError(
                    f"the {name} text has {len(part)} tokens, one window needs {least}: "
                    f"use a longer text or a smaller --context-length (now {config.context_length})"
                )
        return cls(dict(zip(FILES, ids)), size, settings.seed)

    @classmethod
    def open(cls, folder: Path, settings, config, tokenizer) -> TextExamples:
        """The ids of both parts, mapped into memory."""
        tokens = {part: open_tokens(folder / TRAINING_FOLDER / name, config.vocab_size) for part, name in FILES.items()}
        return cls(tokens, (settings.batch_size, config.context_length), settings.seed)

    def write(self, folder: Path) -> None:
        """Write a token file for each part."""
        for part, name in FILES.items():
            path, tokens = folder / TRAINING_FOLDER / name, self.tokens[part]
            if isinstance(tokens, TokensToWrite):
                tokens.write(path)
            else:
                write_tokens(path, tokens)

    def batch(self, step: int, micro_step: int) -> tuple:
        """Windows from random places of the training text."""
        return random_windows(self.tokens[TRAINING], *self.size, stream(self._seed, "batch", step, micro_step))

    def evaluation_batches(self, part: str, limit: int | None = None) -> Iterator[tuple]:
        """Windows one after the other, all of them or `limit` evenly spaced ones."""
        return sequential_windows(self.tokens[part], *self.size, limit)

    def sample(self, model, tokenizer, sampler, max_tokens: int) -> str:
        """A text that starts with the first token of the validation text."""
        start = np.array(self.tokens[VALIDATION][:1], dtype=np.int64)
        tokens = generate(model, start[None, :], max_new_tokens=max_tokens, sampler=sampler)
        return tokenizer.decode([int(start[0]), *(int(token[0]) for token in tokens)])

    def sample_heading(self, tokenizer) -> str:
        """The token that samples start with."""
        return f"a text that continues {tokenizer.decode([int(self.tokens[VALIDATION][0])])!r}"

    def summary(self, settings, tokenizer) -> list[str]:
        """The names of the text, the tokens of its parts, and the documents in it."""
        facts = self.facts()
        note = end_of_text_note(tokenizer, *self.tokens.values())
        return [
            f"{', '.join(settings.data)}: {facts['train_tokens']:,} tokens to learn from, "
            f"{facts['validation_tokens']:,} to validate on",
            *([note] if note else []),
        ]

    def facts(self) -> dict[str, int]:
        """The lengths of both parts."""
        return {"train_tokens": len(self.tokens[TRAINING]), "validation_tokens": len(self.tokens[VALIDATION])}

    def notes(self, settings) -> Iterator[str]:
        """A remark where a batch has more windows than the text."""
        windows = len(self.tokens[TRAINING]) - self.size[1]
        if settings.batch_size > windows:
            yield (
                f"a batch has {settings.batch_size} windows, and the text only {windows} different ones of "
                f"{self.size[1]} tokens: many are drawn twice"
            )

    def options_to_try(self, tokenizer, can_be_shown) -> str:
        """--prompt with a beginning from the validation text; nothing where there is none that can
        be shown.
        """
        ids = [int(token) for token in self.tokens[VALIDATION][:TOKENS_LOOKED_AT]]
        prompt = first_prompt(tokenizer, tokenizer.decode(ids))
        if prompt is None or prompt.startswith("-") or not can_be_shown(prompt):
            return ""
        return prompt_option(prompt)
