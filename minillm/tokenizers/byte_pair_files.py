"""Byte-pair vocabularies in the files of others.

tokenizer.json                 Hugging Face's `tokenizers`: everything in one file, see tokenizer_json.py
vocab.json and merges.txt      Hugging Face's older pair of files, and the same as
encoder.json and vocab.bpe     OpenAI's of GPT-2, see pair_files.py
*.tiktoken                     OpenAI's rank files, see rank_files.py
"""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import write_atomically
from minillm.tokenizers.byte_spelling import spell
from minillm.tokenizers.pair_files import PAIRS_OF_FILES
from minillm.tokenizers.patterns import GPT2, PATTERNS, compile_pattern
from minillm.tokenizers.tokenizer import Tokenizer, write_json


def huggingface_contents(tokenizer: Tokenizer) -> dict:
    """The contents of its tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = sorted(tokenizer.added_tokens, key=lambda token: token.id)
    vocabulary = _spelled_vocabulary(tokenizer)
    if [token.id for token in added] != list(range(len(vocabulary), len(vocabulary) + len(added))):
        # `tokenizers` numbers added tokens from the end of the vocabulary on, unless they are in
        # it
        vocabulary |= {token.content: token.id for token in added}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.as_data() for token in added],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer_of(tokenizer.pattern),
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
            "ignore_merges": tokenizer.ignore_merges,
            "vocab": vocabulary,
            "merges": _spelled_merges(tokenizer),
        },
    }


def pre_tokenizer_of(pattern: str) -> dict:
    """The pre-tokenizer that cuts by a pattern and spells bytes."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if pattern == "gpt2" or pattern == GPT2:
        return byte_level
    if pattern == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    split = {
        "type": "Split",
        "pattern": {"Regex": PATTERNS.get(pattern, pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}


def save_pair_of_files(tokenizer: Tokenizer, folder: str | Path, names=PAIRS_OF_FILES[0]) -> None:
    """vocab.json and merges.txt, or with names=("encoder.json", "vocab.bpe") the same under
    OpenAI's names.
    """
    if tokenizer.pattern is None or compile_pattern(tokenizer.pattern).pattern != GPT2:
        raise UserError(
            "vocab.json and merges.txt cannot say that text is cut in another way than GPT-2's: use tokenizer.json"
        )
    vocabulary = _spelled_vocabulary(tokenizer) | tokenizer.special_tokens
    write_json(Path(folder) / names[0], vocabulary)
    lines = ["#version: 0.2", *_spelled_merges(tokenizer), ""]
    write_atomically(Path(folder) / names[1], "\n".join(lines).encode("utf-8"))


def _spelled_vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    special = set(tokenizer.special_tokens.values())
    return {spell(token): index for index, token in enumerate(tokenizer.tokens) if index not in special}


def _spelled_merges(tokenizer: Tokenizer) -> list[str]:
    return [f"{spell(tokenizer.tokens[a])} {spell(tokenizer.tokens[b])}" for a, b, _ in tokenizer.merges]
