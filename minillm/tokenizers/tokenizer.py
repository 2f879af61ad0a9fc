"""What every tokenizer offers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from minillm.files.atomic import write_atomically
from minillm.tokenizers.trace import TracedPiece

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"
KINDS: dict[
    str, type[Tokenizer]
] = {}  # what readers of files make: each class that is defined with a `kind` enters itself


class Tokenizer:
    """Text to ids and back. `vocab_size` is the number of ids. kind: the class's name in KINDS.

    special_tokens: text -> id of the tokens that control the model, as an end of text. bos_token,
    eos_token: the texts of those that begin and end a text, None where the files name none.
    """

    kind: str = ""
    vocab_size: int
    special_tokens: dict[str, int] = {}
    bos_token: str | None = None
    eos_token: str | None = None

    def __init_subclass__(cls, kind: str | None = None, **others):
        super().__init_subclass__(**others)
        if kind is not None:
            KINDS[kind] = cls
            cls.kind = kind

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = (),
        disallowed_special: Collection[str] | str = "all",
        add_special_tokens: bool = True,
    ) -> list[int]:
        """The ids of a text. Raises UserError for text that the vocabulary cannot express.

        Special tokens in the text follow tiktoken's rules: those in allowed_special (or "all")
        become their ids; text that contains one of disallowed_special ("all": every other) is an
        error, because a user of a service should not be able to write control tokens; with
        disallowed_special=() it is text like any other.

        add_special_tokens: whether the tokens that the tokenizer's files put around every text, BOS
        or EOS, are put there.
        """
        raise NotImplementedError

    def surrounding_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that are put before and after every text."""
        return (), ()

    def trace(
        self, text: str, allowed_special: Collection[str] | str = "all", add_special_tokens: bool = True
    ) -> Iterator[TracedPiece]:
        """The pieces of a text with all merges in them: trace.py.

        Their ids together are those of `encode` with disallowed_special=(). Raises what it raises.
        """
        raise NotImplementedError

    def token_bytes(self, index: int) -> bytes:
        """The bytes of an id in the middle of a text; of BOS and EOS those of their names."""
        raise NotImplementedError

    def decode(self, ids) -> str:
        """The text of ids. Raises UserError for an id outside the vocabulary."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json, as the Hugging Face `tokenizers` library reads it."""
        raise NotImplementedError

    def piece(self, index: int) -> str:
        """The text of an id in the middle of a text.

        Raises UserError for an id outside the vocabulary.
        """
        return self.decode([index])

    def stream(self) -> StreamingDecoder:
        """A decoder for ids that arrive one by one."""
        return StreamingDecoder(self)


class StreamingDecoder:
    """Decodes ids one by one; for tokenizers whose tokens are whole characters, each id at once."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def push(self, token: int) -> str:
        """The text that is complete with this id and was not returned before."""
        return self._tokenizer.decode([token])

    def start_here(self) -> None:
        """The text of the ids so far is not wanted any more: they were a prompt."""

    def finish(self) -> str:
        """What is left when no more ids come."""
        return ""


def write_json(path: Path, contents: dict) -> None:
    """Write a file of a tokenizer, which is there whole or not at all."""
    write_atomically(path, json.dumps(contents, indent=1, ensure_ascii=False).encode("utf-8"))
