"""Byte-pair vocabularies in the files of others.

    tokenizer.json                 Hugging Face's `tokenizers`: everything in one file
    vocab.json and merges.txt      Hugging Face's older pair of files, and the same as
    encoder.json and vocab.bpe     OpenAI's of GPT-2
    *.tiktoken                     OpenAI's rank files: a line for each token, base64 and rank

The first three spell bytes as characters, so that white space and control bytes are visible: a byte that is a printable
character of Latin-1 is that character, the others are U+0100 and on, in order ("Ġ" is the space).
"""

from __future__ import annotations

import base64
import binascii
import json
from functools import cache
from pathlib import Path

from minillm.errors import UserError
from minillm.files import read_json, write_atomically
from minillm.tokenizers.byte_pair import BytePairTokenizer
from minillm.tokenizers.patterns import CL100K, GPT2, PATTERNS, compile_pattern
from minillm.tokenizers.tokenizer import CONFIG_FILE, TOKENIZER_FILE

PAIRS_OF_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
END_OF_TEXT = "<|endoftext|>"


# ------------------------------------------------------------------------------------------- bytes spelled as characters


@cache
def byte_characters() -> tuple[str, ...]:
    """The character of each byte.

    >>> "".join(byte_characters()[byte] for byte in b" a\\n\\xe9")
    'ĠaĊé'
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


def spell(token: bytes) -> str:
    """Bytes as characters."""
    return "".join(map(byte_characters().__getitem__, token))


@cache
def _bytes_of_characters() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def unspell(token: str) -> bytes:
    """Characters as bytes. Raises KeyError for a character that stands for none."""
    return bytes(map(_bytes_of_characters().__getitem__, token))


# ------------------------------------------------------------------------------------------------------------- reading


def load_byte_pair(path: Path) -> BytePairTokenizer:
    """Open a folder or a file, by what is there. Raises UserError for files that are missing, broken or of another kind."""
    if path.is_dir():
        if (path / TOKENIZER_FILE).exists():
            return _load_huggingface(path / TOKENIZER_FILE)
        for vocabulary, merges in PAIRS_OF_FILES:
            if (path / vocabulary).exists() and (path / merges).exists():
                return _load_pair_of_files(path / vocabulary, path / merges)
        ranks = sorted(path.glob("*.tiktoken"))
        if len(ranks) == 1:
            return load_tiktoken(ranks[0])
        others = f"{', '.join(' and '.join(pair) for pair in PAIRS_OF_FILES)} or one *.tiktoken"
        raise UserError(f"{path / TOKENIZER_FILE} is missing, and the folder has no {others} either")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".tiktoken":
        return load_tiktoken(path)
    for vocabulary, merges in PAIRS_OF_FILES:
        if path.name in (vocabulary, merges):
            return _load_pair_of_files(path.with_name(vocabulary), path.with_name(merges))
    return _load_huggingface(path)


def from_spelled_parts(tokens, merges, pattern, special_tokens, where="the vocabulary", whole_pieces=False):
    """tokens: id -> spelling; merges: "a b" or [a, b], in order; special_tokens: text -> id."""
    special_ids = set(special_tokens.values())
    if special_ids and not 0 <= min(special_ids) <= max(special_ids) < len(tokens):
        raise UserError(f"{where}: a special token has an id outside of the {len(tokens)} ids")
    ids = {token: index for index, token in enumerate(tokens)}
    try:
        plain = [
            token.encode("utf-8") if index in special_ids else unspell(token) for index, token in enumerate(tokens)
        ]
    except KeyError as error:
        raise UserError(f"{where}: the character {error.args[0]!r} of a token stands for no byte") from None
    triples = []
    for rank, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
            raise UserError(f"{where}: merge {rank} is {merge!r}, not two tokens")
        triple = tuple(ids.get(text) for text in (*parts, "".join(parts)))
        if None in triple:
            raise UserError(f"{where}: merge {rank} ({parts[0]} {parts[1]}) has a token that is not in the vocabulary")
        triples.append(triple)
    return BytePairTokenizer(plain, triples, pattern, special_tokens, whole_pieces)


def _load_pair_of_files(vocabulary_path: Path, merges_path: Path) -> BytePairTokenizer:
    tokens = _tokens_by_id(vocabulary_path, read_json(vocabulary_path))
    lines = _read_text(merges_path).split("\n")
    merges = [line for line in lines[lines[0].startswith("#version") :] if line.strip()]
    special = {END_OF_TEXT: tokens.index(END_OF_TEXT)} if END_OF_TEXT in tokens else {}
    return from_spelled_parts(tokens, merges, "gpt2", special, str(merges_path))


def _load_huggingface(path: Path) -> BytePairTokenizer:
    contents = read_json(path)
    model = contents.get("model") if isinstance(contents, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise UserError(f"{path} is no byte-pair tokenizer (a model of type BPE with vocab and merges)")
    if model.get("byte_fallback") or model.get("unk_token") or model.get("end_of_word_suffix"):
        raise UserError(f"{path}: its model is not byte-level BPE (it has byte_fallback, unk_token or a suffix)")
    if contents.get("normalizer") is not None:
        raise UserError(f"{path}: it normalises text before it cuts it, which byte-level BPE does not")
    vocabulary = model.get("vocab")
    special, added = {}, contents.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise UserError(f"{path}: vocab has to be an object and added_tokens a list")
    vocabulary = dict(vocabulary)
    for token in added:
        content, index = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(content, str) or not isinstance(index, int) or not content:
            raise UserError(f"{path}: an added token has no content or no id: {token!r}")
        vocabulary[content] = index
        special[content] = index
    tokens = _tokens_by_id(path, vocabulary)
    pattern = _pattern_of(path, contents.get("pre_tokenizer"))
    return from_spelled_parts(tokens, model["merges"], pattern, special, str(path), bool(model.get("ignore_merges")))


def _pattern_of(path: Path, pre_tokenizer) -> str:
    """The pattern that a pre-tokenizer of Hugging Face's cuts with."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if isinstance(pre_tokenizer, dict) else []
    steps = steps if isinstance(steps, list) else []
    kinds = [step.get("type") for step in steps if isinstance(step, dict)]
    last = steps[-1] if kinds and len(kinds) == len(steps) else {}
    if kinds and kinds[-1] == "ByteLevel" and not last.get("add_prefix_space"):
        uses_gpt2 = last.get("use_regex", True)
        if kinds == ["ByteLevel"] and uses_gpt2:
            return "gpt2"
        if kinds == ["Digits", "ByteLevel"] and uses_gpt2 and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not uses_gpt2 and steps[0].get("behavior") in ("Isolated", "Removed"):
            pattern = steps[0].get("pattern")
            pattern = pattern.get("Regex") if isinstance(pattern, dict) else None
            inverted = steps[0].get("behavior") == "Removed"  # what does not match is kept, or what does
            if isinstance(pattern, str) and inverted == bool(steps[0].get("invert")):
                return next((name for name, known in PATTERNS.items() if known == pattern), pattern)
    raise UserError(f"{path}: its pre_tokenizer ({', '.join(map(str, kinds)) or 'none'}) is not one of byte-level BPE")


def load_tiktoken(
    path: Path, pattern: str = "cl100k", special_tokens: dict[str, int] | None = None
) -> BytePairTokenizer:
    """Open a rank file. It holds neither the pattern nor the special tokens, so these have to be said.

    A pair of tokens that together are a token is merged in the order of that token's rank, whatever pair it was learned from.
    """
    ranks = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            ranks[base64.b64decode(text, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f'{path}, line {number}: "{line[:40]}" is not a token in base64 and its rank') from None
    special_tokens = special_tokens or {}
    tokens = sorted(ranks, key=ranks.get)
    if [ranks[token] for token in tokens] != list(range(len(tokens))):
        raise UserError(f"{path}: the ranks are not 0 to {len(tokens) - 1}, each once")
    size = max([len(tokens), *(index + 1 for index in special_tokens.values())])
    tokens += [b""] * (size - len(tokens))
    for text, index in special_tokens.items():
        if tokens[index]:
            raise UserError(f"{path}: id {index} of the special token {text!r} is taken by {tokens[index]!r}")
        tokens[index] = text.encode("utf-8")
    return BytePairTokenizer(tokens, merges_of_ranks(ranks), pattern, special_tokens, whole_pieces=True)


def merges_of_ranks(ranks: dict[bytes, int]) -> list[tuple[int, int, int]]:
    """Every way to put a token together from two others, in the order of the tokens."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        for cut in range(1, len(token)):
            left, right = ranks.get(token[:cut]), ranks.get(token[cut:])
            if left is not None and right is not None:
                merges.append((left, right, rank))
    return merges


def _tokens_by_id(path: Path, vocabulary: dict) -> list[str]:
    ids = list(vocabulary.values())
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in ids):
        raise UserError(f"{path}: an id of the vocabulary is no whole number")
    if len(set(ids)) != len(ids) or (ids and not 0 <= min(ids) <= max(ids) < len(ids)):
        raise UserError(f"{path}: the ids of the vocabulary are not 0 to {len(ids) - 1}, each once")
    return sorted(vocabulary, key=vocabulary.get)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None


# ------------------------------------------------------------------------------------------------------------- writing


def save_huggingface(tokenizer: BytePairTokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    contents = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for text, index in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern, byte_level),
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole_pieces,
            "vocab": _spelled_vocabulary(tokenizer),
            "merges": _spelled_merges(tokenizer),
        },
    }
    _write_json(folder / TOKENIZER_FILE, contents)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if END_OF_TEXT in tokenizer.special_tokens:
        config |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    _write_json(folder / CONFIG_FILE, config)


def _pre_tokenizer(pattern: str, byte_level: dict) -> dict:
    if pattern == "gpt2" or pattern == GPT2:
        return byte_level
    if pattern == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    split = {
        "type": "Split",
        "pattern": {"Regex": CL100K if pattern == "cl100k" else pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}


def save_pair_of_files(tokenizer: BytePairTokenizer, folder: str | Path, names=PAIRS_OF_FILES[0]) -> None:
    """vocab.json and merges.txt, or with names=("encoder.json", "vocab.bpe") the same under OpenAI's names."""
    if compile_pattern(tokenizer.pattern).pattern != GPT2:
        raise UserError(
            "vocab.json and merges.txt cannot say that text is cut in another way than GPT-2's: use tokenizer.json"
        )
    vocabulary = _spelled_vocabulary(tokenizer) | tokenizer.special_tokens
    _write_json(Path(folder) / names[0], vocabulary)
    lines = ["#version: 0.2", *_spelled_merges(tokenizer), ""]
    write_atomically(Path(folder) / names[1], "\n".join(lines).encode("utf-8"))


def save_tiktoken(tokenizer: BytePairTokenizer, path: str | Path) -> None:
    """A rank file. The ids of special tokens must come after all others, and the pattern has to be said when it is opened."""
    special = set(tokenizer.special_tokens.values())
    plain = [token for index, token in enumerate(tokenizer.tokens) if index not in special]
    if special and min(special) < len(plain):
        raise UserError("a rank file has no room for a special token among the others: its id would be lost")
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(plain)]
    write_atomically(Path(path), "".join(lines).encode("ascii"))


def _spelled_vocabulary(tokenizer: BytePairTokenizer) -> dict[str, int]:
    special = set(tokenizer.special_tokens.values())
    return {spell(token): index for index, token in enumerate(tokenizer.tokens) if index not in special}


def _spelled_merges(tokenizer: BytePairTokenizer) -> list[str]:
    return [f"{spell(tokenizer.tokens[a])} {spell(tokenizer.tokens[b])}" for a, b, _ in tokenizer.merges]


def _write_json(path: Path, contents: dict) -> None:
    write_atomically(path, json.dumps(contents, indent=1, ensure_ascii=False).encode("utf-8"))
