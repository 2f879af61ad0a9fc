"""A text to learn from that need not fit into memory: its vocabulary and its ids, part by part.

Everything is as `TextExamples` has it of a text in memory, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minillm.data.encode_files import Reading, encode_files, map_parts
from minillm.data.text_files import Span, TextFiles
from minillm.tokenizers import BytePairTokenizer, CharacterTokenizer, Tokenizer
from minillm.tokenizers.safe_cuts import SafeCuts, safe_cuts
from minillm.tokenizers.word_counts import WordCounter, WordTable, count_words


class LargeText(NamedTuple):
    """Files, and how they are read."""

    files: TextFiles
    reading: Reading

    @property
    def span(self) -> Span:
        """All of it."""
        return Span(0, self.files.size)

    def characters(self) -> CharacterTokenizer:
        """The tokenizer of its characters."""
        found: set[str] = set()
        for part in map_parts(set, self.files, self.span, SafeCuts(), self.reading, "collecting characters"):
            found |= part
        return CharacterTokenizer("".join(sorted(found)))

    def first_of(self, tokens: Sequence[str]) -> list[str]:
        """The first of these tokens that is in the text, alone; none where none is."""
        if not tokens:
            return []

        def found_in(text: str) -> list[str]:
            return [token for token in tokens if token in text]

        here: set[str] = set()
        for found in map_parts(
            found_in, self.files, self.span, SafeCuts(tokens), self.reading, "looking for documents"
        ):
            here.update(found)
        return [token for token in tokens if token in here][:1]

    def byte_pairs(self, vocab_size: int, separators: list[str], pattern: str) -> BytePairTokenizer:
        """The tokenizer that is learned from its training part, whose documents are separated
        so.
        """
        counter, merges = WordCounter(), vocab_size - 256 - len(separators)

        def count(text: str) -> WordTable:
            return count_words(text.split(separators[0]) if separators else [text], pattern)

        training, _ = self.files.split
        for table in map_parts(count, self.files, training, SafeCuts(separators), self.reading, "counting"):
            counter.add(table)

        def report(done: int) -> None:
            self.reading.report("merging", done, merges)

        return BytePairTokenizer.train_on_counts(counter.table(), vocab_size, separators, pattern, report)


class TokensToWrite(NamedTuple):
    """The ids of a span of a text, which are made when they are written."""

    text: LargeText
    span: Span
    tokenizer: Tokenizer
    special: str

    def write(self, path: Path) -> int:
        """Write the token file; returns how many ids there are. Raises UserError for a text that
        cannot be read or encoded.
        """
        files, reading = self.text
        return encode_files(path, files, self.span, self.tokenizer, safe_cuts(self.tokenizer), self.special, reading)
