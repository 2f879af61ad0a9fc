"""How a text begins when no prompt is given, and the prompt that is proposed for a new model."""

from __future__ import annotations

from minillm.errors import UserError
from minillm.tokenizers.tokenizer import END_OF_TEXT, Tokenizer

USUAL, LONGEST = "The", 12  # characters of a proposal


def start_of_text(tokenizer: Tokenizer) -> tuple[list[int], str]:
    """(one id to write on from, its text): what the tokenizer itself begins a text with, else its
    BOS, else an end of text, after which the next text began in training; else a newline; else the
    first token that can be read. The text of a control token is empty.
    """
    special = getattr(tokenizer, "special_tokens", {})
    own = tokenizer.encode("")[:1]
    named = [special[name] for name in (getattr(tokenizer, "bos_token", None), END_OF_TEXT) if name in special]
    if own or named:
        return own or named[:1], ""
    if can_encode(tokenizer, "\n"):
        return tokenizer.encode("\n"), "\n"
    pieces = ((index, tokenizer.piece(index)) for index in range(tokenizer.vocab_size))
    return next((([index], text) for index, text in pieces if _is_readable(text)), ([0], tokenizer.piece(0)))


def first_prompt(tokenizer: Tokenizer, text: str) -> str | None:
    """A prompt to try a model with that was trained on texts like this one: "The", or a word of the
    text; None without one.
    """
    if USUAL in text and can_encode(tokenizer, USUAL):
        return USUAL
    words = [word[:LONGEST] for word in text.split()]
    words = words[1:] + words[:1]  # the first one may be the end of a word that was cut
    return next((word for word in words if _is_readable(word) and can_encode(tokenizer, word)), None)


def can_encode(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the vocabulary can express a text."""
    try:
        return bool(tokenizer.encode(text))
    except UserError:
        return False


def _is_readable(text: str) -> bool:
    return text.isprintable() and bool(text.strip()) and "\ufffd" not in text
