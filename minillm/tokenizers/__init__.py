"""Tokenizers: text to ids and back."""

from __future__ import annotations

from pathlib import Path

from minillm.tokenizers.byte_pair import BytePairTokenizer
from minillm.tokenizers.character import CharacterTokenizer
from minillm.tokenizers.opening import open_tokenizer
from minillm.tokenizers.sentencepiece import ScoreTokenizer
from minillm.tokenizers.tokenizer import StreamingDecoder, Tokenizer

__all__ = [
    "BytePairTokenizer",
    "CharacterTokenizer",
    "ScoreTokenizer",
    "StreamingDecoder",
    "Tokenizer",
    "load_tokenizer",
]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder or a tokenizer's file, of the class that its files call for.
    Raises UserError.
    """
    return open_tokenizer(Path(folder))
