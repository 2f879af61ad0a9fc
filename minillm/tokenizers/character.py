"""The character tokenizer: every distinct character of the training text is a token.

    "hello" -> characters e h l o -> ids e 0, h 1, l 2, o 3 -> [1, 0, 2, 2, 3]

>>> tokenizer = CharacterTokenizer.train("hello")
>>> tokenizer.encode("hello")
[1, 0, 2, 2, 3]
>>> tokenizer.decode([1, 3, 2, 0])
'hole'
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import read_json, write_atomically
from minillm.tokenizers.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from minillm.tokenizers.trace import TracedPiece

CODE_POINTS = 0x110000
EVERY_CHARACTER = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}


class CharacterTokenizer(Tokenizer, kind="characters"):
    """Ids are positions in `characters`, a string of distinct characters."""

    def __init__(self, characters: str):
        if len(set(characters)) != len(characters) or not characters:
            raise UserError("the characters of a vocabulary must be distinct, and there must be at least one")
        self.characters = characters
        self.vocab_size = len(characters)
        self._ids = {character: index for index, character in enumerate(characters)}
        # code point -> id, and -1 for unknown ones; one look-up encodes a whole text
        self._id_of_code_point = np.full(CODE_POINTS, -1, dtype=np.int32)
        self._id_of_code_point[[ord(character) for character in characters]] = np.arange(len(characters))

    @classmethod
    def train(cls, text: str) -> CharacterTokenizer:
        """The vocabulary of a text: its distinct characters in the order of their code points."""
        return cls("".join(sorted(set(text))))

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = (),
        disallowed_special: Collection[str] | str = "all",
        add_special_tokens: bool = True,
    ) -> list[int]:
        """The ids of a text.

        There are no special tokens. Raises UserError for a character that is not in the vocabulary.
        """
        try:
            code_points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at {error.start}"
            ) from None
        ids = self._id_of_code_point[code_points]
        unknown = np.flatnonzero(ids < 0)
        if len(unknown):
            character = text[unknown[0]]
            raise UserError(
                f"the model has never seen the character {character!r} (U+{ord(character):04X}, at position {unknown[0]} of "
                f"the text): its vocabulary is the {self.vocab_size} characters of its training text; leave it out"
            )
        return ids.tolist()

    def trace(
        self, text: str, allowed_special: Collection[str] | str = "all", add_special_tokens: bool = True
    ) -> Iterator[TracedPiece]:
        """Each character by itself: nothing is merged."""
        for character, index in zip(text, self.encode(text)):
            yield TracedPiece(character, [index], [index])

    def token_bytes(self, index: int) -> bytes:
        """The bytes of an id: see Tokenizer.token_bytes."""
        return self.characters[index].encode("utf-8")

    def decode(self, ids) -> str:
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise UserError(f"id {index} is outside the vocabulary of {self.vocab_size} characters")
        return "".join(self.characters[index] for index in ids)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json: a word-level model whose words are single characters."""
        contents = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": EVERY_CHARACTER,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": ""},
        }
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER_FILE, json.dumps(contents, indent=1).encode("utf-8"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=1).encode("utf-8"))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CharacterTokenizer:
        """The tokenizer of a folder.

        Raises UserError if its tokenizer.json is missing, broken or of another kind.
        """
        path = Path(folder) / TOKENIZER_FILE
        return cls.from_contents(read_json(path), str(path))

    @classmethod
    def from_contents(cls, contents: dict, where: str) -> CharacterTokenizer:
        """From the contents of a tokenizer.json.

        Raises UserError for what is not a tokenizer of characters.
        """
        model = contents.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict) or model.get("type") != "WordLevel":
            raise UserError(f"{where} is not the tokenizer of a character model (a WordLevel model with a vocabulary)")
        if sorted(vocabulary.values(), key=repr) != sorted(range(len(vocabulary)), key=repr):
            raise UserError(f"{where}: the ids of the vocabulary are not 0 to {len(vocabulary) - 1}, each once")
        characters = sorted(vocabulary, key=vocabulary.get)
        if wrong := [word for word in characters if len(word) != 1]:
            raise UserError(f"{where}: {wrong[0]!r} is not a single character")
        if unknown := [name for name in model if name not in ("type", "vocab", "unk_token")]:
            raise UserError(f"{where}: model (WordLevel): the option {unknown[0]!r} is not known here")
        usual = {"pre_tokenizer": EVERY_CHARACTER, "decoder": {"type": "Fuse"}}
        for name in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if contents.get(name) and contents[name] != usual.get(name):
                raise UserError(f"{where}: its {name} ({contents[name]!r:.80}) is not known for a model of characters")
        return cls("".join(characters))
