"""The tokenizer in a GGUF file: its keys tokenizer.ggml.*.

    model           "gpt2": bytes and merges, "llama": characters and scores, "rwkv": the longest token that fits
    tokens          the spelling of each id; token_type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
    merges, scores  how tokens are merged
    pre             the pre-tokenizer, by llama.cpp's name
    add_bos_token, add_eos_token, add_space_prefix, bos_token_id, eos_token_id, ...

Control and unknown tokens are special tokens; user-defined ones are matched in every text. For
missing keys llama.cpp's defaults are used: BOS before the text for models of characters, and for
the pre-tokenizers of Llama 3 and Tekken. Unsupported keys that change ids are refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from minillm.errors import UserError
from minillm.pretrained.gguf import NO_TOKEN, Settings, open_gguf
from minillm.tokenizers.added_tokens import AddedToken
from minillm.tokenizers.byte_pair_files import pre_tokenizer_of
from minillm.tokenizers.character import CharacterTokenizer
from minillm.tokenizers.escapes import unescaped
from minillm.tokenizers.post_processors import Around
from minillm.tokenizers.sentencepiece import ScoreTokenizer
from minillm.tokenizers.sentencepiece_file import added_by_type
from minillm.tokenizers.tokenizer import Tokenizer
from minillm.tokenizers.tokenizer_config import around_of
from minillm.tokenizers.tokenizer_json import tokenizer_of_contents

PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
KEYS = {
    "model",
    "pre",
    "tokens",
    "token_type",
    "scores",
    "merges",
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
}
WITHOUT_EFFECT = {"token_type_count", "added_tokens"}  # and all that name ids
# Keys that change a text when they are set.
CHANGING = {"remove_extra_whitespaces", "precompiled_charsmap", "add_sep_token"}
NORMALIZES = "minillm.tokenizer.normalizes"  # false: texts are not brought into NFC, as no text is by llama.cpp
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


class Cut(NamedTuple):
    """pattern: a name of patterns.py. ignore_merges, bos: llama.cpp's defaults."""

    pattern: str
    ignore_merges: bool = False
    bos: bool = False
    normalizer: dict | None = None


CUTS = {
    **dict.fromkeys(("gpt-2", "gpt2", "default", "phi-2", "mpt", "olmo"), Cut("gpt2")),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), Cut("smollm")),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), Cut("cl100k", ignore_merges=True, bos=True)),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Cut("cl100k")),
    # the normalizer in the tokenizer.json of these models; GGUF files do not contain it
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), Cut("qwen2", normalizer={"type": "NFC"})),
    **dict.fromkeys(("gpt-4o", "llama4"), Cut("o200k")),
    "tekken": Cut("tekken", ignore_merges=True, bos=True),
}


def load_gguf_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a GGUF file. Raises UserError for damaged or unsupported ones."""
    return tokenizer_of_settings(open_gguf(path))


def tokenizer_of_settings(file: Settings) -> Tokenizer:
    """The tokenizer that the keys of a file describe. Raises UserError as `load_gguf_tokenizer`."""
    kind, tokens = file.setting(PREFIX + "model", str), file.setting(PREFIX + "tokens", list)
    types = file.setting(PREFIX + "token_type", list, [NORMAL] * len(tokens))
    if len(types) != len(tokens) or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"{file.path}: the tokenizer's tokens and their types do not fit together")
    _refuse_unknown_keys(file)
    if kind not in _READERS:
        raise UserError(f'{file.path}: its tokenizer is of the kind "{kind}": minillm knows {", ".join(_READERS)}')
    size, named = len(tokens), {index for key, index in file.settings.items() if key.endswith("_token_id")}
    while size and types[size - 1] == UNUSED and tokens[size - 1] == padding(size - 1) and size - 1 not in named:
        size -= 1  # rows of the embedding that no token has
    return _READERS[kind](file, tokens[:size], types[:size])


def padding(index: int) -> str:
    """How llama.cpp's converter calls an id that the tokenizer does not have."""
    return f"[PAD{index}]"


def _refuse_unknown_keys(file: Settings) -> None:
    for key, value in file.settings.items():
        name = key.removeprefix(PREFIX)
        known = name in KEYS | WITHOUT_EFFECT or name.endswith(("_token_id", "_token_ids"))
        if key.startswith(PREFIX) and not known and (name not in CHANGING or value not in (False, [], "", 0, None)):
            raise UserError(f"{file.path}: its tokenizer has {key} ({value!r:.60}), which minillm does not know")


def _token_id(file: Settings, name: str, size: int, default: int | None = None) -> int | None:
    """The id of a named token; None if the file has none."""
    index = file.settings.get(f"{PREFIX}{name}_token_id", default)
    if index is None:
        return None
    if type(index) is not int or not 0 <= index < size:
        raise UserError(f"{file.path}: {PREFIX}{name}_token_id is {index!r}, and there are {size} tokens")
    return index


def _flag(file: Settings, name: str, default: bool) -> bool:
    return file.setting(PREFIX + name, bool, default)


def _byte_level(file: Settings, tokens: list[str], types: list[int]) -> Tokenizer:
    name = file.settings.get(PREFIX + "pre", "gpt-2")
    if not isinstance(name, str) or name not in CUTS:
        raise UserError(f'{file.path}: its tokenizer cuts text as "{name}": minillm knows {", ".join(CUTS)}')
    cut, vocabulary = CUTS[name], {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if vocabulary[token] != index)
        raise UserError(f"{file.path}: the token {twice!r} occurs twice")
    ends = {each: _token_id(file, each, len(tokens)) for each in ("bos", "eos", "unknown", "padding")}
    ends = {each: None if index is not None and tokens[index] == NO_TOKEN else index for each, index in ends.items()}
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    config = {names[each]: tokens[index] for each, index in ends.items() if index is not None}
    flags = {
        "add_bos_token": _flag(file, "add_bos_token", cut.bos),
        "add_eos_token": _flag(file, "add_eos_token", False),
    }
    looked_for = (UNKNOWN, CONTROL, USER_DEFINED)
    added = [
        AddedToken(index, token, special=kind != USER_DEFINED).as_data()
        for index, (token, kind) in enumerate(zip(tokens, types))
        if kind in looked_for and token
    ]
    contents = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": cut.normalizer if file.setting(NORMALIZES, bool, True) else None,
        "pre_tokenizer": pre_tokenizer_of(cut.pattern),
        "post_processor": around_of(config | flags, vocabulary, str(file.path)),
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "ignore_merges": cut.ignore_merges,
            "vocab": vocabulary,
            "merges": file.setting(PREFIX + "merges", list),
        },
    }
    return tokenizer_of_contents(contents, config, str(file.path))


def _character_level(file: Settings, tokens: list[str], types: list[int]) -> ScoreTokenizer:
    size, scores = len(tokens), file.setting(PREFIX + "scores", list)
    bos, eos, unknown = (_token_id(file, name, size, at) for name, at in (("bos", 1), ("eos", 2), ("unknown", 0)))
    if len(scores) != len(file.settings[PREFIX + "tokens"]):
        raise UserError(f"{file.path}: {len(file.settings[PREFIX + 'tokens'])} tokens have {len(scores)} scores")
    space = _flag(file, "add_space_prefix", True)
    added = added_by_type(tokens, types, space)
    # the oldest files have no types
    added += [AddedToken(i, tokens[i]) for i in {bos, eos, unknown} - {token.id for token in added} if i is not None]
    around = Around(
        (bos,) if bos is not None and _flag(file, "add_bos_token", True) else (),
        (eos,) if eos is not None and _flag(file, "add_eos_token", False) else (),
    )
    unused = {index for index, kind in enumerate(types) if kind == UNUSED}
    return ScoreTokenizer.from_scores(tokens, scores[:size], added, bos, eos, unknown, space, around, unused=unused)


def _characters(file: Settings, tokens: list[str], types: list[int]) -> CharacterTokenizer:
    """A vocabulary of RWKV's kind, of which the longest token that fits is taken: here every token
    is one character.
    """
    characters = [unescaped(token) for token in tokens]
    if odd := [token for token, text in zip(tokens, characters) if text is None or len(text) != 1]:
        raise UserError(
            f"{file.path}: its tokenizer is of the kind rwkv, and {odd[0]!r:.60} is no single character: minillm knows such "
            "a tokenizer for models of characters alone"
        )
    return CharacterTokenizer("".join(characters))


_READERS = {"gpt2": _byte_level, "llama": _character_level, "rwkv": _characters}
