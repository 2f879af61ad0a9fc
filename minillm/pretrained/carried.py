"""Reading the files of a model beside weights and vocabulary: see models/carried.py."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.files.model_folder import CONFIG_FILE, GENERATION_FILE
from minillm.models.carried import (
    DEFAULT_TEMPLATE,
    FILE_NAME,
    TEMPLATE_FILE,
    TEMPLATE_FOLDER,
    TOKENIZER_CONFIG,
    Carried,
)
from minillm.pretrained.sources import model_chain

ID_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")
SPECIAL_TOKENS_FILE, LLAMA2C_ENDS = "special_tokens_map.json", (1, 2)
OF_THE_WRITER = {"_from_model_config", "transformers_version"}  # in generation_config.json: how it was made
GGUF_IDS = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
GGUF_ENDS = ("eos", "eot", "eom")  # of a text, of a turn, of a message that waits for a tool
GGUF_SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}  # fmt: skip
# settings of generation that older versions of transformers kept in config.json
OLD_GENERATION = (
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p", "typical_p",
    "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip


def carried_from(source: str | Path, revision: str | None = None) -> Carried:
    """The other files of the model `source`; for an adapter those of its base model and its own.

    Raises UserError for files that cannot be read.
    """
    said = Carried()
    for path in model_chain(source, revision):
        said = said.over(_from_file(path) if path.is_file() else _from_folder(path))
    return said


def _from_file(path: Path) -> Carried:
    from minillm.pretrained.gguf import is_gguf, open_gguf

    return _from_gguf(open_gguf(path)) if is_gguf(path) else Carried(ids={"eos_token_id": list(LLAMA2C_ENDS)})


def _from_folder(folder: Path) -> Carried:
    config, generation = _json(folder / CONFIG_FILE), _json(folder / GENERATION_FILE)
    tokenizer, special = _json(folder / TOKENIZER_CONFIG), _json(folder / SPECIAL_TOKENS_FILE)
    if not generation:
        generation = {name: config[name] for name in OLD_GENERATION if config.get(name) is not None}
    generation = {name: value for name, value in generation.items() if value is not None and name not in OF_THE_WRITER}
    return Carried(
        ids={name: config[name] for name in ID_NAMES if config.get(name) is not None},
        generation=generation,
        templates=_templates(folder, tokenizer),
        tokenizer={name: value for name, value in {**_texts(special), **tokenizer}.items() if value is not None},
    )


def _texts(special: dict) -> dict:
    """special_tokens_map.json reduced to the texts of tokens; their flags are part of the
    tokenizer.
    """

    def text(value):
        return value.get("content") if isinstance(value, dict) else value

    return {name: list(map(text, value)) if isinstance(value, list) else text(value) for name, value in special.items()}


def _templates(folder: Path, tokenizer: dict) -> dict[str, str]:
    """Chat templates by name; files take precedence over tokenizer_config.json."""
    stored = tokenizer.get("chat_template")
    if isinstance(stored, list):
        entries = [entry for entry in stored if isinstance(entry, dict)]
        found = {entry.get("name"): entry.get("template") for entry in entries}
    else:
        found = stored if isinstance(stored, dict) else {DEFAULT_TEMPLATE: stored}
    found = {name: text for name, text in found.items() if isinstance(name, str) and isinstance(text, str)}
    files = [(path.stem, path) for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))]
    for name, path in [*files, (DEFAULT_TEMPLATE, folder / TEMPLATE_FILE)]:
        if path.is_file():
            found[name] = _text(path)
    if odd := [name for name in found if not FILE_NAME.fullmatch(name)]:
        raise UserError(f"{folder}: a chat template is named {odd[0]!r:.99}, which cannot be the name of a file")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None


def _json(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _from_gguf(file) -> Carried:
    from minillm.pretrained.gguf import NO_TOKEN

    def index_of(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        index = file.setting(key, int) if key in file.settings else None
        return None if index is not None and tokens[index : index + 1] == [NO_TOKEN] else index

    tokens = file.settings.get("tokenizer.ggml.tokens", [])
    ends = sorted({index for name in GGUF_ENDS if (index := index_of(name)) is not None})
    ids = {"bos_token_id": index_of("bos"), "eos_token_id": ends or None, "pad_token_id": index_of("padding")}
    if len(ends) == 1:
        ids["eos_token_id"] = ends[0]
    texts = {theirs: index_of(name) for name, theirs in GGUF_IDS.items()}
    prefix, key = "general.sampling.", "tokenizer.chat_template"
    templates = {
        name.removeprefix(key).removeprefix(".") or DEFAULT_TEMPLATE: text
        for name, text in file.settings.items()
        if (name == key or name.startswith(f"{key}.")) and isinstance(text, str)
    }
    sampling = {theirs: file.settings.get(prefix + name) for name, theirs in GGUF_SAMPLING.items()}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    return Carried(
        ids={name: value for name, value in ids.items() if value is not None},
        generation={"do_sample": True, **sampling} if sampling else {},
        templates={name: text for name, text in templates.items() if FILE_NAME.fullmatch(name)},
        tokenizer={name: tokens[i] for name, i in texts.items() if i is not None and 0 <= i < len(tokens)},
    )
