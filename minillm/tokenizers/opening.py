"""Opening the tokenizer of a folder or a file, of whatever kind it is."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.tokenizers.pair_files import PAIRS_OF_FILES, pair_contents
from minillm.tokenizers.rank_files import is_rank_file, load_tiktoken
from minillm.tokenizers.sentencepiece_file import SENTENCEPIECE_FILE, load_sentencepiece
from minillm.tokenizers.tokenizer import TOKENIZER_FILE, Tokenizer
from minillm.tokenizers.tokenizer_json import read_tokenizer, tokenizer_of_contents


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder or a file, by what is there.

    Raises UserError for files that are missing, broken or unknown.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".tiktoken":
        return load_tiktoken(path)
    for vocabulary, merges in PAIRS_OF_FILES:
        if path.name in (vocabulary, merges):
            return _of_pair(path.with_name(vocabulary), path.with_name(merges))
    return _by_contents(path)


def _of_folder(folder: Path) -> Tokenizer:
    if (folder / TOKENIZER_FILE).exists():
        return read_tokenizer(folder / TOKENIZER_FILE)
    for vocabulary, merges in PAIRS_OF_FILES:
        if (folder / vocabulary).exists() and (folder / merges).exists():
            return _of_pair(folder / vocabulary, folder / merges)
    ranks = sorted(folder.glob("*.tiktoken"))
    if len(ranks) == 1:
        return load_tiktoken(ranks[0])
    if (folder / SENTENCEPIECE_FILE).exists():
        return _by_contents(folder / SENTENCEPIECE_FILE)
    others = f"{', '.join(' and '.join(pair) for pair in PAIRS_OF_FILES)}, {SENTENCEPIECE_FILE} or one *.tiktoken"
    raise UserError(f"{folder / TOKENIZER_FILE} is missing, and the folder has no {others} either")


def _of_pair(vocabulary: Path, merges: Path) -> Tokenizer:
    contents, config = pair_contents(vocabulary, merges)
    return tokenizer_of_contents(contents, config, str(vocabulary))


def _by_contents(path: Path) -> Tokenizer:
    """By how the file begins: a tokenizer.json under another name, a rank file, or SentencePiece's."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if start.startswith(b"GGUF"):
        raise UserError(f"{path} is a GGUF file: minillm.pretrained.tokenizer_of opens the tokenizer in it")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return read_tokenizer(path)
    if is_rank_file(path):
        return load_tiktoken(path)
    if start.startswith(b"\n") or path.suffix == ".model":
        return load_sentencepiece(path)
    return read_tokenizer(path)
