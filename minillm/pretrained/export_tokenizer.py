"""A tokenizer as the keys tokenizer.ggml.* of a GGUF file: the inverse of gguf_tokenizer.py.

    byte pairs       "gpt2": vocabulary, merges, and by `pre` the name of the way that text is cut
    SentencePiece    "llama": vocabulary and scores
    characters       "rwkv": a vocabulary of which the longest token that fits is taken

GGUF says less than tokenizer.json. So the keys are read as they would be from the file, and the
tokenizer that they make must give the same ids for texts of every sort; what differs is refused.
Source: llama.cpp, conversion/base.py and src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.pretrained.export_cut import pre_tokenizer_names
from minillm.pretrained.gguf import NO_TOKEN, Settings
from minillm.pretrained.gguf_tokenizer import (
    CONTROL,
    CUTS,
    NORMAL,
    NORMALIZES,
    PREFIX,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    padding,
    tokenizer_of_settings,
)
from minillm.tokenizers.character_pairs import SPACE
from minillm.tokenizers.decoders import BYTE_TOKEN
from minillm.tokenizers.escapes import escaped
from minillm.tokenizers.surroundings import token_text
from minillm.tokenizers.tokenizer import Tokenizer

BYTE = 6
FOLDER = "export it to a folder, which holds the tokenizer as it is"
NAMES = {
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",
    "mask_token": "mask",
}  # GGUF's spelling
# what llama.cpp does otherwise than tokenizer.json, by the pattern; such texts are rare
_MARKS = "llama.cpp cuts words with combining marks, or with capitals that are not Latin, otherwise than tokenizer.json"
OTHERWISE = {
    "o200k": _MARKS,
    "tekken": _MARKS,
    "qwen2": "llama.cpp does not compose characters (NFC), as tokenizer.json does: e and U+0301 stay two",
}
TEXTS = (
    "Once upon a time, there was a girl's dog. We'll see: THEY'RE gone, I'VE 7 of 12, 2026 or 31415926535!",
    "one  two   three    spaces, \ttab\t\ttabs \n\n\n lines\r\n  indented\n    more   ",
    "def f(x):\n\treturn [x**2 for x in range(10)] # squares... != == -> <tag/> \\n {\"a\": 'b'}",
    "Grüße aus Köln, ÀÉÎÕÜ, e\u0301, ﬁn, \u00a0nbsp\u3000wide\x85next, İstanbul ΑΒΓαβγ КотЁ",
    "東京は日本の首都です。中文字符 한국어 नमस्ते ภาษาไทย עברית العربية ٣٤٥ ½ Ⅷ",
    "👩\u200d👩\u200d👧 🚀😶\u200d🌫️ \U00010348 \ufeff x\u200by",
    "", "\n", "a", "\n\nb", "\x00\x07",
)  # fmt: skip
SPACED = (" ", " a", "  two", "   three spaces,\tand more", "\u2581a")


def tokenizer_settings(tokenizer: Tokenizer, vocab_size: int, ids: dict) -> tuple[dict, list[str]]:
    """(keys and values, notes on what GGUF does not carry)

    vocab_size: of the model; ids that the tokenizer does not have become unused tokens. ids:
    bos_token_id and eos_token_id of the model's configuration. Raises UserError for a tokenizer
    that a GGUF file cannot hold.
    """
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {vocab_size}: it is not this model's tokenizer"
        )
    if tokenizer.kind not in _KINDS:
        raise UserError(f"a {type(tokenizer).__name__} cannot be written into a GGUF file: {FOLDER}")
    settings, notes = _KINDS[tokenizer.kind](tokenizer, ids)
    tokens, types = settings[PREFIX + "tokens"], settings[PREFIX + "token_type"]
    unused = range(len(tokens), vocab_size)
    settings[PREFIX + "tokens"] = [*tokens, *map(padding, unused)]
    settings[PREFIX + "token_type"] = [*types, *[UNUSED] * len(unused)]
    if PREFIX + "scores" in settings:
        settings[PREFIX + "scores"] = [*settings[PREFIX + "scores"], *[0.0] * len(unused)]
    _refuse_twins(settings[PREFIX + "tokens"])
    return settings, notes + _compared(tokenizer, settings)


def _byte_level(tokenizer, ids: dict) -> tuple[dict, list[str]]:
    model = tokenizer.contents()["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if not merges:
        raise UserError(f"a vocabulary of bytes without merges cannot be written into a GGUF file: {FOLDER}")
    name, normalizes = pre_tokenizer_names(tokenizer)
    tokens, types = _spelled(tokenizer, {index: token for token, index in model["vocab"].items()})
    settings = {"model": "gpt2", "pre": name, "tokens": tokens, "token_type": types, "merges": merges}
    settings |= _special(tokenizer, ids, tokens, NO_TOKEN)
    keys = {PREFIX + name: value for name, value in settings.items()}
    notes = [note] if normalizes and (note := OTHERWISE.get(CUTS[name].pattern)) else []
    return keys | ({} if normalizes else {NORMALIZES: False}), notes + _flags(tokenizer)


def _spelled(tokenizer, vocabulary: dict[int, str]) -> tuple[list[str], list[int]]:
    """The spelling of each id, and its type. vocabulary: of the ids that are learned."""
    tokens = [vocabulary.get(index, padding(index)) for index in range(tokenizer.vocab_size)]
    types = [NORMAL if index in vocabulary else UNUSED for index in range(tokenizer.vocab_size)]
    for token in tokenizer.added_tokens:
        tokens[token.id], types[token.id] = token.content, CONTROL if token.special else USER_DEFINED
    return tokens, types


def _character_level(tokenizer, ids: dict) -> tuple[dict, list[str]]:
    spelled = {index: token.replace(" ", SPACE) for index, token in enumerate(tokenizer.tokens) if token}
    tokens, types = _spelled(tokenizer, spelled)
    types = [UNUSED if index in tokenizer.unused else kind for index, kind in enumerate(types)]
    types = [BYTE if kind == NORMAL and BYTE_TOKEN.fullmatch(token) else kind for token, kind in zip(tokens, types)]
    for token in tokenizer.added_tokens:
        if not token.special and not token.content.strip(" " + SPACE):  # runs of spaces: see added_by_type
            tokens[token.id] = SPACE * (len(token.content) + (token.normalized and tokenizer.prefix_space))
    if tokenizer.unknown is not None:
        types[tokenizer.unknown] = UNKNOWN
    scores = [float(np.float32(score)) for score in tokenizer.scores]
    settings = {"model": "llama", "pre": "default", "tokens": tokens, "token_type": types, "scores": scores}
    settings |= {"add_space_prefix": tokenizer.prefix_space}
    nothing = tokens[tokenizer.unknown if tokenizer.unknown is not None else 0]
    settings |= _special(tokenizer, ids, tokens, nothing)
    return {PREFIX + name: value for name, value in settings.items()}, _flags(tokenizer)


def _characters(tokenizer, ids: dict) -> tuple[dict, list[str]]:
    settings = {
        "model": "rwkv",
        "pre": "default",
        "tokens": list(map(escaped, tokenizer.characters)),
        "token_type": [NORMAL] * tokenizer.vocab_size,
        "add_bos_token": False,
    }
    notes = []
    if not tokenizer.characters.isascii():
        notes.append(
            "llama.cpp does not come back from a text with a character that the model does not have, if it begins with the "
            "same byte as one that it has (è beside é)"
        )
    return {PREFIX + name: value for name, value in settings.items()}, notes


def _special(tokenizer, ids: dict, tokens: list[str], nothing: str) -> dict:
    """The ids of special tokens, and which of them are put around a text.

    nothing: the token that is named where the model has no BOS or EOS; without a name llama.cpp
    takes an id that is an ordinary token.
    """
    before, after = tokenizer.surrounding_ids()
    index_of = {token: index for index, token in reversed(list(enumerate(tokens)))}
    named = {
        name: index_of.get(token_text(text)) for name, text in tokenizer.config().items() if name.endswith("_token")
    }
    ends = ids.get("eos_token_id")
    ends = [index for index in (ends if isinstance(ends, list) else [ends]) if index is not None]
    bos = _first(*before, named.get("bos_token"), ids.get("bos_token_id"))
    usual = _first(*after, named.get("eos_token"))
    eos = usual if usual is not None and (after or not ends or usual in ends) else next(iter(ends), usual)
    for name, around in (("before", before), ("after", after)):
        if len(around) > 1:
            raise UserError(
                f"the tokenizer puts {len(around)} tokens {name} a text, and a GGUF file can say one: {FOLDER}"
            )
    found = {"bos": bos, "eos": eos, **{theirs: named.get(ours) for ours, theirs in NAMES.items()}}
    found["padding"] = _first(found["padding"], ids.get("pad_token_id"))
    others = [index for index in dict.fromkeys(ends) if index != eos]
    message = next((index for index in others if "eom" in tokens[index]), None)
    turn = next((index for index in others if index != message), None)
    found |= {"eot": turn, "eom": _first(message, *(index for index in others if index != turn))}
    for name in ("bos", "eos"):
        found[name] = _first(found[name], index_of.get(nothing))
    numbers = {f"{name}_token_id": index for name, index in found.items() if index is not None}
    return {**numbers, "add_bos_token": bool(before), "add_eos_token": bool(after)}


def _first(*values):
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def _flags(tokenizer) -> list[str]:
    """A note on added tokens that GGUF cannot describe whole."""
    odd = [token.content for token in tokenizer.added_tokens if token.lstrip or token.rstrip or token.single_word]
    if not odd:
        return []
    return [f"a GGUF file does not say that {odd[0]!r} takes in the spaces beside it, or is a whole word alone"]


def _refuse_twins(tokens: list[str]) -> None:
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if seen.setdefault(token, index) != index:
            raise UserError(
                f"the tokens {seen[token]} and {index} are both {token!r}, which llama.cpp refuses in a GGUF file: {FOLDER}"
            )


def _compared(tokenizer: Tokenizer, settings: dict) -> list[str]:
    """Notes if texts that begin with a space, or go on after an added token, get other ids by the
    keys.

    Raises UserError if other texts do.
    """
    opened = tokenizer_of_settings(Settings(Path("the GGUF file"), settings))
    for text in (*TEXTS, *_learned(tokenizer)):
        if ids := _different(tokenizer, opened, text):
            raise UserError(
                f"this tokenizer cannot be written into a GGUF file: {text!r:.40} would be {ids[1][:8]} in place of "
                f"{ids[0][:8]}; {FOLDER}"
            )
    notes = []
    if text := next((text for text in SPACED if _different(tokenizer, opened, text)), None):
        notes.append(f"a text that begins with a space, as {text!r}, becomes other tokens than with tokenizer.json")
    for token in getattr(tokenizer, "added_tokens", ()):
        mixed = f"a {token.content} b{token.content}{token.content}\n"
        if _different(tokenizer, opened, token.content) or _different(tokenizer, opened, mixed):
            notes.append(f"a text around {token.content!r} becomes other tokens than with tokenizer.json")
            break
    return [f"a GGUF file cannot say how: {note}" for note in notes]


def _learned(tokenizer: Tokenizer) -> Iterator[str]:
    """Texts with each token that is merged by its score, where tokenizer.json may list merges."""
    if tokenizer.kind == "character-level":
        added = {token.id for token in tokenizer.added_tokens}
        for index, token in enumerate(tokenizer.tokens):
            if index not in added and not BYTE_TOKEN.fullmatch(token):
                yield f"a{token}"


def _different(tokenizer: Tokenizer, opened: Tokenizer, text: str) -> tuple[list[int], list[int]] | None:
    """The ids of a text by both, where they differ."""
    try:
        mine = tokenizer.encode(text, "all")
    except UserError:  # a character that the vocabulary lacks
        return None
    theirs = opened.encode(text, "all")
    return None if theirs == mine else (mine, theirs)


_KINDS = {"byte-level": _byte_level, "character-level": _character_level, "characters": _characters}
