"""vocab.json and merges.txt, Hugging Face's older pair of files, and OpenAI's encoder.json and
vocab.bpe, which are the same.

    vocab.json    {"!": 0, ..., "Ġthe": 262, ...}
    merges.txt    a line for each merge, "Ġ t", in order; the first line may name a version

They say neither how text is cut nor what is added: tokenizer_config.json beside them names the
class that does, GPT-2's or Qwen's, and the special tokens; added_tokens.json has those that were
added later.
"""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.tokenizers.patterns import QWEN2
from minillm.tokenizers.tokenizer import END_OF_TEXT
from minillm.tokenizers.tokenizer_config import added_later, around_of, named_tokens, read_config

PAIRS_OF_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LIKE_GPT2 = ("GPT2Tokenizer", "CodeGenTokenizer", "PreTrainedTokenizer", "TokenizersBackend")


def pair_contents(vocabulary_path: Path, merges_path: Path) -> tuple[dict, dict]:
    """What the files say, as the contents of tokenizer.json and of tokenizer_config.json. Raises
    UserError.
    """
    folder, vocabulary = vocabulary_path.parent, read_json(vocabulary_path)
    config = read_config(folder)
    if END_OF_TEXT in vocabulary:
        config = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT} | config
    where = str(folder / "tokenizer_config.json")
    later = added_later(config, folder, where)
    texts = {token.content for token in later}
    added = [token for token in named_tokens(config, vocabulary) if token.content not in texts] + later
    ids = vocabulary | {token.content: token.id for token in later}
    normalizer, pre_tokenizer = _cutting(config, where)
    contents = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.as_data() for token in sorted(added, key=lambda token: token.id)],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": around_of(config, ids, where),
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": _merges(merges_path)},
    }
    return contents, config


def _cutting(config: dict, where: str) -> tuple[dict | None, dict]:
    """The normalizer and the pre-tokenizer of the class that a configuration names."""
    kind = config.get("tokenizer_class") or "GPT2Tokenizer"
    prefix = config.get("add_prefix_space") or False
    if isinstance(kind, str) and kind.removesuffix("Fast") == "Qwen2Tokenizer":
        split = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
        steps = [split, BYTE_LEVEL | {"use_regex": False, "add_prefix_space": prefix}]
        return {"type": "NFC"}, {"type": "Sequence", "pretokenizers": steps}
    if not isinstance(kind, str) or kind.removesuffix("Fast") not in LIKE_GPT2:
        raise UserError(
            f"{where}: the tokenizer_class {kind!r} is not known for vocabularies in a pair of files, only GPT2Tokenizer and "
            "Qwen2Tokenizer: a tokenizer.json says how text is cut"
        )
    return None, BYTE_LEVEL | {"add_prefix_space": prefix}


def _merges(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    return [line for line in lines[lines[0].startswith("#version") :] if line.strip()]
