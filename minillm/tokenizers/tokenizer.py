"""What every tokenizer offers."""

from __future__ import annotations

from pathlib import Path

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"


class Tokenizer:
    """Text to ids and back. `vocab_size` is the number of ids.

    special_tokens: text of a control token -> id. bos_token, eos_token: the texts of two of them, None if the files name none.
    """

    vocab_size: int
    special_tokens: dict[str, int] = {}
    bos_token: str | None = None
    eos_token: str | None = None

    def encode(
        self, text: str, allowed_special=(), disallowed_special="all", add_special_tokens: bool = True
    ) -> list[int]:
        """The ids of a text. Raises UserError for text that the vocabulary cannot express.

        Control tokens in the text follow tiktoken's rules (BytePairTokenizer.encode). add_special_tokens: whether what the
        tokenizer puts around every text, such as BOS, is added.
        """
        raise NotImplementedError

    def decode(self, ids) -> str:
        """The text of ids. Raises UserError for an id outside the vocabulary."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json, as the Hugging Face `tokenizers` library reads it."""
        raise NotImplementedError

    def piece(self, index: int) -> str:
        """The text of an id in the middle of a text. Raises UserError for an id outside the vocabulary."""
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

    def finish(self) -> str:
        """What is left when no more ids come."""
        return ""
