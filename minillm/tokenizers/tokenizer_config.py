"""tokenizer_config.json and the older files beside it: the names of special tokens, and tokens that
were added later.

    tokenizer_config.json       {"bos_token": "<s>", "add_bos_token": true, "added_tokens_decoder": {"32000": {"content": ...}}}
    special_tokens_map.json     {"bos_token": {"content": "<s>", "lstrip": false, ...}, "additional_special_tokens": [...]}
    added_tokens.json           {"<|im_start|>": 32000}

Where the first says nothing, the second counts. `transformers` reads them so, and so the ids are
those of its AutoTokenizer.
"""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.tokenizers.added_tokens import AddedToken
from minillm.tokenizers.post_processors import template_of
from minillm.tokenizers.surroundings import token_text
from minillm.tokenizers.tokenizer import CONFIG_FILE

MAP_FILE, ADDED_FILE = "special_tokens_map.json", "added_tokens.json"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def read_config(folder: Path) -> dict:
    """What the files of a folder say, with the names of special tokens from either file.

    Raises UserError for a broken file.
    """
    config, names = (read_json(folder / name) if (folder / name).is_file() else {} for name in (CONFIG_FILE, MAP_FILE))
    return {name: value for name, value in names.items() if name in (*NAMES, *LISTS)} | config


def special_names(config: dict) -> dict[str, dict]:
    """The special tokens that a configuration names: text -> its flags, as far as they
    are there.
    """
    found = {}
    for value in [config.get(name) for name in NAMES] + [each for name in LISTS for each in _listed(config.get(name))]:
        text = token_text(value)
        if text:
            found.setdefault(text, value if isinstance(value, dict) else {})
    return found


def _listed(value) -> list:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def added_later(config: dict, folder: Path | None, where: str) -> list[AddedToken]:
    """The tokens of added_tokens_decoder and of added_tokens.json, by id.

    Raises UserError for what is not right.
    """
    named, tokens = special_names(config), {}
    if folder is not None and (folder / ADDED_FILE).is_file():
        for text, index in read_json(folder / ADDED_FILE).items():
            special = text in named
            flags = {"special": special, "normalized": not special} | named.get(text, {})
            tokens[index] = _token(index, text, flags, f"{folder / ADDED_FILE}")
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise UserError(f"{where}: added_tokens_decoder is {decoder!r:.60}, expected an object")
    for index, entry in decoder.items():
        if not index.isdecimal() or not isinstance(entry, dict):
            raise UserError(f"{where}: added_tokens_decoder has {index!r}: {entry!r:.60}, expected an id and a token")
        tokens[int(index)] = _token(int(index), entry.get("content"), entry, f"{where}: added_tokens_decoder")
    return [tokens[index] for index in sorted(tokens)]


def _token(index, text, flags: dict, where: str) -> AddedToken:
    special = flags.get("special", False)
    values = {name: flags.get(name, name == "normalized" and not special) for name in FLAGS} | {"special": special}
    right = type(index) is int and index >= 0 and isinstance(text, str) and text
    if not right or not all(isinstance(value, bool) for value in values.values()):
        raise UserError(f"{where}: {text!r} with the id {index!r} and {flags!r:.80} is no token")
    return AddedToken(index, text, **values)


def named_tokens(config: dict, vocabulary: dict[str, int]) -> list[AddedToken]:
    """The special tokens that a configuration names and that are in the vocabulary."""
    known = [(text, flags) for text, flags in special_names(config).items() if text in vocabulary]
    return [_token(vocabulary[text], text, {**flags, "special": True}, CONFIG_FILE) for text, flags in known]


def around_of(config: dict, ids: dict[str, int], where: str) -> dict | None:
    """The post-processor that add_bos_token and add_eos_token ask for; None if neither is
    there.

    ids: of all tokens. Raises UserError if a token is to be added that is not named, or not in the
    vocabulary.
    """
    asked = {name: config.get(f"add_{name}") for name in ("bos_token", "eos_token")}
    if not any(isinstance(value, bool) for value in asked.values()):
        return None
    sides = []
    for name, value in asked.items():
        text = token_text(config.get(name))
        if value and text is not None and text not in ids:
            raise UserError(f"{where}: add_{name} is set, and {text!r} is not in the vocabulary")
        sides.append([(text, ids[text])] if value and text is not None else [])
    return template_of(*sides)
