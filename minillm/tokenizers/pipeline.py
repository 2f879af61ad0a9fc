"""A tokenizer as a pipeline around the model that turns pre-tokens into ids.

    text                               "<s>Hi"
    added tokens are found             1 | "Hi"
    normalizer                         1 | "▁Hi"
    (pre-tokenizer -> model)           1 | 432
    ids of the post-processor around   [1, 1, 432]

Every part is as tokenizer.json says; see tokenizer_json.py. The parts in brackets are those of the
classes that follow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from minillm.errors import UserError
from minillm.tokenizers.added_tokens import AddedToken
from minillm.tokenizers.surroundings import Surroundings, token_text
from minillm.tokenizers.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer, write_json
from minillm.tokenizers.tokenizer_json import check_opens
from minillm.tokenizers.trace import TracedPiece


class PipelineTokenizer(Tokenizer):
    """What byte-level and character-level tokenizers share.

    special_tokens: text -> id of the tokens that control the model. added_tokens: all that are
    looked for in a text. bos_token, eos_token: the texts that the files name so, None if they name
    none.
    """

    special_tokens: dict[str, int]

    def _surround(self, parts: Surroundings) -> None:
        """To be called once, before anything is encoded."""
        self._parts = parts
        self._config = dict(parts.config or {})
        self.special_tokens = dict(parts.added.special)
        # the whole text is one part, unless special tokens are allowed
        self._whole = all(token.special for token in parts.added.tokens) and parts.normalizer is None

    @property
    def takes_parts(self) -> bool:
        """Whether added tokens are found, and all else is read, by what is there and not by what is
        around it.
        """
        looks_around = any(token.lstrip or token.rstrip or token.single_word for token in self._parts.added.tokens)
        return self._parts.normalizer is None and not looks_around

    @property
    def added_tokens(self) -> list[AddedToken]:
        return list(self._parts.added.tokens)

    @property
    def bos_token(self) -> str | None:
        return token_text(self._config.get("bos_token"))

    @property
    def eos_token(self) -> str | None:
        return token_text(self._config.get("eos_token"))

    def surrounding_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that are put before and after every text."""
        return tuple(self._parts.around.before), tuple(self._parts.around.after)

    def _encode(
        self,
        text: str,
        allowed_special: Collection[str] | str,
        disallowed_special: Collection[str] | str,
        add_special_tokens: bool,
    ) -> list[int]:
        allowed = self._allowed(allowed_special)
        if self.special_tokens and disallowed_special:
            self._refuse_special(text, allowed, disallowed_special)
        _check_unicode(text)
        ids = self._encode_ordinary(text, True) if self._whole and not allowed else self._encode_parts(text, allowed)
        before, after = self._parts.around if add_special_tokens else ((), ())
        return [*before, *ids, *after] if before or after else ids

    def _allowed(self, allowed_special: Collection[str] | str) -> Collection[str]:
        """The special tokens that are looked for in a text."""
        if not self.special_tokens or not allowed_special:
            return ()
        return self.special_tokens.keys() if allowed_special == "all" else self.special_tokens.keys() & allowed_special

    def trace(
        self, text: str, allowed_special: Collection[str] | str = "all", add_special_tokens: bool = True
    ) -> Iterator[TracedPiece]:
        """The pieces of a text: see Tokenizer.trace."""
        _check_unicode(text)
        before, after = self._parts.around if add_special_tokens else ((), ())
        yield from map(self._traced_token, before)
        for part, starts in self._parts.added.split(text, self._allowed(allowed_special)):
            if isinstance(part, int):
                yield self._traced_token(part)
            else:
                yield from self._trace_ordinary(part, starts)
        yield from map(self._traced_token, after)

    def _traced_token(self, index: int) -> TracedPiece:
        return TracedPiece(self.token_bytes(index).decode("utf-8", "replace"), [index], [index], whole=True, added=True)

    def _trace_ordinary(self, text: str, starts: bool) -> Iterator[TracedPiece]:
        """The pieces of a text as _encode_ordinary takes it."""
        raise NotImplementedError

    def _encode_parts(self, text: str, allowed: Collection[str]) -> list[int]:
        """The ids of added tokens, and of the texts between them.

        allowed: the special ones that are looked for.
        """
        parts = self._parts.added.split(text, allowed)
        if len(parts) == 1 and isinstance(parts[0][0], str):
            return self._encode_ordinary(*parts[0])
        ids: list[int] = []
        for part, starts in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_ordinary(part, starts)
        return ids

    def _encode_ordinary(self, text: str, starts: bool) -> list[int]:
        """The ids of a text without added tokens, normalised.

        starts: whether it starts the input (normalizers.py).
        """
        raise NotImplementedError

    def _refuse_special(self, text, allowed, disallowed) -> None:
        if disallowed == "all":
            found = self._parts.added.first_special(text, allowed)
            token, at = (found[0], found.start()) if found else (None, 0)
        else:
            token = next((token for token in disallowed if token and token in text), None)
            at = text.index(token) if token else 0
        if token is not None:
            raise UserError(
                f"the text contains the special token {token!r}, at {at}: allow it with "
                f"allowed_special={{{token!r}}}, or encode it as plain text with disallowed_special=()"
            )

    # -------------------------------------------------------------------------------------------------------- files

    def contents(self) -> dict:
        """The tokenizer as the contents of a tokenizer.json."""
        return self._parts.contents if self._parts.contents is not None else self._made_contents()

    def config(self) -> dict:
        """The contents of its tokenizer_config.json."""
        return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | self._config

    def _made_contents(self) -> dict:
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as Hugging Face's `tokenizers` and
        `transformers` read them.

        What was read from such files is written back. What was made otherwise is opened before it
        is written. Raises UserError where it cannot be opened, or would not be the same tokenizer.
        """
        contents, config = self.contents(), self.config()
        if self._parts.contents is None:
            check_opens(self, contents, config)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TOKENIZER_FILE, contents)
        write_json(folder / CONFIG_FILE, config)


def _check_unicode(text: str) -> None:
    """Raises UserError for a lone surrogate."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise UserError(
            f"the text has a lone surrogate, U+{code:04X}, at {error.start}: it is not Unicode text"
        ) from None
