"""tokenizer.model, the file of SentencePiece: a Protocol Buffers message, of which what is needed
is read here.

    ModelProto      1 pieces (SentencePiece, repeated)   2 trainer_spec   3 normalizer_spec
    SentencePiece   1 piece (string)   2 score (float)   3 type: 1 normal, 2 unknown, 3 control,
                    4 user-defined, 5 unused, 6 byte
    TrainerSpec     3 model_type: 1 unigram, 2 BPE       40 unk_id   41 bos_id   42 eos_id
    NormalizerSpec  2 precompiled_charsmap   3 add_dummy_prefix   4 remove_extra_whitespaces   5 escape_whitespaces

A message is a row of fields, each a number (field << 3 | wire type) and a value: 0 a
variable-length number, 1 eight bytes, 2 a length and as many bytes, 5 four bytes. Source:
sentencepiece_model.proto.

Only models of the type BPE whose normalizer changes nothing are opened: those of Llama 2 and the
first Mistral. BOS is put before a text unless add_bos_token in tokenizer_config.json says
otherwise, as LlamaTokenizer does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from minillm.errors import UserError
from minillm.tokenizers.added_tokens import AddedToken
from minillm.tokenizers.character_pairs import SPACE
from minillm.tokenizers.post_processors import Around
from minillm.tokenizers.tokenizer import KINDS, Tokenizer
from minillm.tokenizers.tokenizer_config import added_later, read_config

SENTENCEPIECE_FILE = "tokenizer.model"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "Word", 4: "Char"}
ADVICE = (
    "convert it to a tokenizer.json with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
)


def load_sentencepiece(path: Path) -> Tokenizer:
    """The tokenizer of a file, with what tokenizer_config.json beside it says.

    Raises UserError for what is not known.
    """
    try:
        message = _fields(path.read_bytes())
        pieces = [_fields(value) for value in message.get(1, [])]
        trainer, normalizer = (_fields(message.get(field, [b""])[-1]) for field in (2, 3))
        tokens = [piece[1][-1].decode("utf-8") for piece in pieces]
        scores = [struct.unpack("<f", piece.get(2, [b"\0" * 4])[-1])[0] for piece in pieces]
        types = [_number(piece, 3, NORMAL) for piece in pieces]
        kind = _number(trainer, 3, 1)
        ids = [_signed(_number(trainer, field, default)) for field, default in ((40, 0), (41, 1), (42, 2))]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
        raise UserError(f"{path} is no SentencePiece model, or damaged") from None
    if not tokens:
        raise UserError(f"{path} is no SentencePiece model, or damaged: it has no tokens")
    if kind != 2:
        raise UserError(
            f"{path}: a SentencePiece model of the type {MODEL_TYPES.get(kind, kind)}, minillm reads BPE: {ADVICE}"
        )
    if (
        any(normalizer.get(2, []))
        or _number(normalizer, 4, 1)
        or not _number(normalizer, 5, 1)
        or _number(trainer, 24, 0)
    ):
        raise UserError(
            f"{path}: its normalizer changes texts (charsmap, extra white space), which is not done here: {ADVICE}"
        )
    unknown, bos, eos = (index if 0 <= index < len(tokens) else None for index in ids)
    config = read_config(path.parent)
    space = bool(_number(normalizer, 3, 1)) and config.get("add_prefix_space") is not False
    added = added_by_type(tokens, types, space)
    # they are looked for in the text as it is, so that each part between them has its space in
    # front
    more = added_later(config, path.parent, str(path))
    later = [replace(token, normalized=False) for token in more if token.id >= len(tokens)]
    if [token.id for token in later] != list(range(len(tokens), len(tokens) + len(later))):
        raise UserError(f"{path}: the ids of the tokens that were added do not follow its {len(tokens)} tokens")
    around = Around(
        (bos,) if bos is not None and config.get("add_bos_token", True) else (),
        (eos,) if eos is not None and config.get("add_eos_token", False) else (),
    )
    texts = tokens + [token.content for token in later]
    scores += [0.0] * len(later)
    return KINDS["character-level"].from_scores(texts, scores, added + later, bos, eos, unknown, space, around, config)


def added_by_type(tokens: list[str], types: list[int], space: bool) -> list[AddedToken]:
    """Control, unknown and user-defined tokens as tokens that are looked for in a text.

    space: whether one is put before it.

    Runs of spaces are looked for where that space is already there. An added token of this kind is
    itself normalised, and so has one space less in its content.

    >>> [token.content for token in added_by_type(["<s>", "▁▁▁", "a"], [CONTROL, USER_DEFINED, NORMAL], space=True)]
    ['<s>', '  ']
    """
    added = []
    for index, (token, kind) in enumerate(zip(tokens, types)):
        if kind in (UNKNOWN, CONTROL):
            added.append(AddedToken(index, token))
        elif kind == USER_DEFINED and token.strip(SPACE + " "):
            added.append(AddedToken(index, token.replace(SPACE, " "), special=False))
        elif kind == USER_DEFINED and len(token) > space:
            added.append(AddedToken(index, " " * (len(token) - space), normalized=True, special=False))
    return added


def _number(message: dict[int, list], field: int, default: int) -> int:
    value = message.get(field, [default])[-1]
    if not isinstance(value, int):
        raise ValueError
    return value


def _signed(number: int) -> int:
    """int32 fields that are negative are written as 64 bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _fields(data: bytes) -> dict[int, list[int | bytes]]:
    """field -> its values, in order. Raises ValueError for bytes that are no message."""
    fields: dict[int, list[int | bytes]] = {}
    for number, value in _read(data):
        fields.setdefault(number, []).append(value)
    return fields


def _read(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 2, 5):
            length, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = data[at : at + length], at + length
            if at > len(data):
                raise ValueError("a value goes beyond the end")
        else:
            raise ValueError("an unknown kind of value")
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where what follows begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
