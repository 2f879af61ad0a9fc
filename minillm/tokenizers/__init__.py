"""Tokenizers: text to ids and back."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files import read_json
from minillm.tokenizers.byte_pair import BytePairTokenizer
from minillm.tokenizers.character import CharacterTokenizer
from minillm.tokenizers.score import ScoreTokenizer
from minillm.tokenizers.tokenizer import TOKENIZER_FILE, StreamingDecoder, Tokenizer

__all__ = [
    "BytePairTokenizer",
    "CharacterTokenizer",
    "ScoreTokenizer",
    "StreamingDecoder",
    "Tokenizer",
    "load_tokenizer",
]

_CLASSES = {"WordLevel": CharacterTokenizer, "BPE": BytePairTokenizer}  # model type in tokenizer.json -> class


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder, of the class that its files call for."""
    path = Path(folder) / TOKENIZER_FILE
    if not path.exists():
        return BytePairTokenizer.from_pretrained(folder)
    model = read_json(path).get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind not in _CLASSES:
        raise UserError(f"{path}: model type {kind!r} is not one of {', '.join(_CLASSES)}")
    if kind == "BPE" and model.get("byte_fallback"):
        return ScoreTokenizer.from_pretrained(folder)
    return _CLASSES[kind].from_pretrained(folder)
