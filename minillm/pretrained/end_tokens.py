"""The end-of-sequence tokens of a model, from its files."""

from __future__ import annotations

from pathlib import Path

from minillm.data.special import end_of_text
from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.files.model_folder import CONFIG_FILE, GENERATION_FILE
from minillm.pretrained.carried import carried_from
from minillm.pretrained.sources import model_chain


def end_tokens(source: str | Path, tokenizer, revision: str | None = None) -> tuple[int, ...]:
    """The end-of-sequence ids of the model `source`; empty for a model without any.

    Of a folder: those of generation_config.json, else of config.json, else of the adapter's base
    model, else the tokenizer's. Of a GGUF file: end of text, of turn and of message. Of a llama2.c
    file: both control tokens, because a story is followed by the start of the next. Raises
    UserError if a file has something other than ids.
    """
    for path in model_chain(source, revision):
        ids = _of_file(path, tokenizer) if path.is_file() else _of_folder(path)
        if ids is not None:
            return ids
    return tuple(sorted(end_of_text(tokenizer).values()))


def _of_file(path: Path, tokenizer) -> tuple[int, ...]:
    from minillm.pretrained.gguf import is_gguf

    if not is_gguf(path):
        return (tokenizer.bos, tokenizer.eos)
    ids = carried_from(path).ids.get("eos_token_id", ())
    return tuple(ids) if isinstance(ids, list) else (ids,) if isinstance(ids, int) else ()


def _of_folder(folder: Path) -> tuple[int, ...] | None:
    for name in (GENERATION_FILE, CONFIG_FILE):
        ids = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        if ids is None:
            continue
        ids = tuple(ids) if isinstance(ids, list) else (ids,)
        if not all(type(index) is int for index in ids):
            raise UserError(f"{folder / name}: eos_token_id is {ids}, expected whole numbers")
        return ids
    return None
