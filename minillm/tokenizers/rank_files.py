"""OpenAI's rank files, *.tiktoken: a line for each token, base64 and rank.

Llama 3's tokenizer.model is one, too.

    SGVsbG8= 1043          the bytes of "Hello", which is token 1043

The file holds neither the pattern nor the special tokens. Both are known for the files that have
the names of OpenAI's and Qwen's encodings and for Llama 3's; else they have to be said. Source: the
packages tiktoken and llama-models.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import NamedTuple

from minillm.errors import UserError
from minillm.files.atomic import write_atomically
from minillm.tokenizers.tokenizer import KINDS, Tokenizer

LLAMA3_MODEL = "tokenizer.model"


class Encoding(NamedTuple):
    """pattern: a name of patterns.py.

    tokens: how many a whole file has. special: of the whole file, text -> id.
    """

    pattern: str
    tokens: int
    special: dict[str, int]


def _llama3_special(tokens: int) -> dict[str, int]:
    named = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id"}
    named |= {8: "eom_id", 9: "eot_id", 10: "python_tag"}
    reserved = iter(range(256))
    names = [named.get(at) or f"reserved_special_token_{next(reserved)}" for at in range(256)]
    return {f"<|{name}|>": tokens + at for at, name in enumerate(names)}


_END = "<|endoftext|>"
_MIDDLE = {"<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260}
ENCODINGS = {
    "gpt2": Encoding("gpt2", 50256, {_END: 50256}),
    "r50k_base": Encoding("gpt2", 50256, {_END: 50256}),
    "p50k_base": Encoding("gpt2", 50280, {_END: 50256}),
    "cl100k_base": Encoding("cl100k", 100256, {_END: 100257, **_MIDDLE, "<|endofprompt|>": 100276}),
    "o200k_base": Encoding("o200k", 199998, {_END: 199999, "<|endofprompt|>": 200018}),
    "qwen": Encoding("qwen2", 151643, {_END: 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}),
    LLAMA3_MODEL: Encoding("cl100k", 128000, _llama3_special(128000)),
}
UNKNOWN = Encoding("cl100k", -1, {})


def load_tiktoken(path: Path, pattern: str | None = None, special_tokens: dict[str, int] | None = None) -> Tokenizer:
    """Open a rank file. Raises UserError for one that is damaged, or has gaps that no special token
    fills.

    pattern: a name of patterns.py or a regular expression; by default that of the encoding of the
    file's name, else GPT-4's. special_tokens: text -> id; by default those of the encoding, if the
    file has all of its tokens.

    A pair of tokens that together are a token is merged in the order of that token's rank, whatever
    pair it was learned from.
    """
    ranks = read_ranks(path)
    encoding = ENCODINGS.get(path.name if path.name == LLAMA3_MODEL else path.stem.lower(), UNKNOWN)
    if special_tokens is None:
        special_tokens = encoding.special if len(ranks) == encoding.tokens else {}
    tokens = _tokens(path, ranks, special_tokens)
    merges = merges_of_ranks(ranks)
    return KINDS["byte-level"](tokens, merges, pattern or encoding.pattern, special_tokens, ignore_merges=True)


def is_rank_file(path: Path) -> bool:
    """Whether the first line of a file is a token in base64 and its rank."""
    with path.open("rb") as file:
        line = file.readline(1 << 16)
    parts = line.split()
    if len(parts) != 2 or not parts[1].isdigit():
        return False
    try:
        base64.b64decode(parts[0], validate=True)
    except binascii.Error:
        return False
    return True


def read_ranks(path: Path) -> dict[bytes, int]:
    """token -> rank. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            token, index = base64.b64decode(text, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f'{path}, line {number}: "{line[:40]}" is not a token in base64 and its rank') from None
        if token in ranks or index < 0:
            raise UserError(f"{path}, line {number}: the token {token!r} is there twice, or its rank is negative")
        ranks[token] = index
    return ranks


def _tokens(path: Path, ranks: dict[bytes, int], special_tokens: dict[str, int]) -> list[bytes]:
    """The bytes of each id; ids after the last rank that no special token has are not used."""
    by_rank = {rank: token for token, rank in ranks.items()}
    end = max(by_rank, default=-1) + 1
    size = max([end, *(index + 1 for index in special_tokens.values())])
    if len(by_rank) != len(ranks) or size > 2 * len(ranks) + 1024:
        raise UserError(f"{path}: the ranks are not 0 to {len(ranks) - 1}, each once")
    tokens = [by_rank.get(index, b"") for index in range(size)]
    for text, index in special_tokens.items():
        if index in by_rank:
            raise UserError(f"{path}: id {index} of the special token {text!r} is taken by {tokens[index]!r}")
        tokens[index] = text.encode("utf-8")
    gaps = [index for index in range(end) if not tokens[index]]
    if gaps:
        raise UserError(
            f"{path}: the ranks are not 0 to {end - 1}, each once: there is no token {gaps[0]}; if it is a special token, "
            "open the file in Python: minillm.tokenizers.rank_files.load_tiktoken(path, pattern, special_tokens)"
        )
    return tokens


def merges_of_ranks(ranks: dict[bytes, int]) -> list[tuple[int, int, int]]:
    """Every way to put a token together from two others, in the order of the tokens."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        for cut in range(1, len(token)):
            left, right = ranks.get(token[:cut]), ranks.get(token[cut:])
            if left is not None and right is not None:
                merges.append((left, right, rank))
    return merges


def save_tiktoken(tokenizer: Tokenizer, path: str | Path) -> None:
    """A rank file. The ids of special tokens must come after all others, and the pattern has to be
    said when it is opened.
    """
    special = {token.id for token in tokenizer.added_tokens}
    plain = [token for index, token in enumerate(tokenizer.tokens) if index not in special]
    if special and min(special) < len(plain):
        raise UserError("a rank file has no room for a special token among the others: its id would be lost")
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(plain)]
    write_atomically(Path(path), "".join(lines).encode("ascii"))
