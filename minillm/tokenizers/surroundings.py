"""The parts around the model of a tokenizer: added tokens, normalizer, ids around a text, and the
files that they are from.
"""

from __future__ import annotations

from typing import NamedTuple

from minillm.tokenizers.added_tokens import AddedToken, AddedTokens
from minillm.tokenizers.normalizers import Normalizer
from minillm.tokenizers.post_processors import Around


class Surroundings(NamedTuple):
    """All of a tokenizer but its pre-tokenizer, model and decoder.

    contents: the tokenizer.json that it was read from, None if it was made otherwise. config: its
    tokenizer_config.json.
    """

    added: AddedTokens = AddedTokens()
    normalizer: Normalizer | None = None
    around: Around = Around()
    contents: dict | None = None
    config: dict | None = None


def token_text(token) -> str | None:
    """The text of a special token in tokenizer_config.json, which is a string or an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def special_tokens_of(tokens: dict[str, int]) -> AddedTokens:
    """Control tokens, by text and id, that are looked for as they are."""
    return AddedTokens(AddedToken(index, text) for text, index in sorted(tokens.items(), key=lambda item: item[1]))
