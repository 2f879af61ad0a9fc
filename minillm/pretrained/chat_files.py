"""Chat templates and special tokens in a model's files, by name.

Source: transformers 5.24, `tokenization_utils_base.py`. Of a folder

    chat_template.jinja                     the template "default"
    additional_chat_templates/NAME.jinja    other templates
    tokenizer_config.json                   without such files: chat_template, a text or a list of
                                            {"name": ..., "template": ...}; bos_token, ...
    special_tokens_map.json                 names of special tokens, in old folders

and of a GGUF file tokenizer.chat_template, tokenizer.chat_template.NAME and
tokenizer.ggml.bos_token_id and others.
"""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.pretrained.gguf import NO_TOKEN, open_gguf
from minillm.tokenizers.tokenizer import CONFIG_FILE

DEFAULT = "default"
TEMPLATE_FILE, TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
NAMES_FILE = "special_tokens_map.json"
NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
GGUF_NAMES = {  # the spelling of llama.cpp
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
_END = "<|endoftext|>"
CLASS_NAMES = {  # defaults of transformers' classes, for tokens missing in tokenizer_config.json
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), _END),
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), _END),
}


def folder_templates(folder: Path) -> dict[str, str]:
    """The templates of a folder, by name. Raises UserError for files that hold something else."""
    alone, others = folder / TEMPLATE_FILE, sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))
    templates = {DEFAULT: _read(alone)} if alone.exists() else {}
    templates |= {path.stem: _read(path) for path in others}
    return templates or _listed(_config(folder).get("chat_template"), folder / CONFIG_FILE)


def folder_names(folder: Path) -> dict[str, str]:
    """The special tokens that a folder names, by name: bos_token, eos_token, ..., and others such
    as image_token.
    """
    contents = _config(folder)
    kind = contents.get("tokenizer_class")
    if "added_tokens_decoder" not in contents and (folder / NAMES_FILE).is_file():
        contents = {**contents, **read_json(folder / NAMES_FILE)}
    named = dict(CLASS_NAMES.get(kind.removesuffix("Fast"), {})) if isinstance(kind, str) else {}
    named |= {name: value for name, value in contents.items() if name.endswith("_token")}
    for group in ("extra_special_tokens", "model_specific_special_tokens"):
        named |= contents[group] if isinstance(contents.get(group), dict) else {}
    texts = {name: _content(value) for name, value in named.items()}
    return {name: text for name, text in texts.items() if text is not None}


def gguf_templates(path: Path) -> dict[str, str]:
    """The templates of a GGUF file, by name."""
    prefix = "tokenizer.chat_template"
    found = {key: value for key, value in open_gguf(path).settings.items() if key.startswith(prefix)}
    named = {key.removeprefix(prefix).removeprefix(".") or DEFAULT: found[key] for key in found if key != prefix + "s"}
    return _listed(named or None, path)


def gguf_names(path: Path) -> dict[str, str]:
    """The special tokens that a GGUF file names."""
    file = open_gguf(path)
    tokens = file.settings.get("tokenizer.ggml.tokens", [])
    ids = {name: file.settings.get(f"tokenizer.ggml.{stored}_token_id") for name, stored in GGUF_NAMES.items()}
    named = {name: tokens[index] for name, index in ids.items() if isinstance(index, int) and 0 <= index < len(tokens)}
    return {name: text for name, text in named.items() if text != NO_TOKEN}


def _listed(stored, path: Path) -> dict[str, str]:
    """The one template, or the list of them, that a file holds; none for None."""
    if stored is None:
        return {}
    if isinstance(stored, str):
        return {DEFAULT: stored}
    if isinstance(stored, list) and all(isinstance(each, dict) for each in stored):
        stored = {each.get("name"): each.get("template") for each in stored}
    if not isinstance(stored, dict) or not all(isinstance(text, str) for item in stored.items() for text in item):
        raise UserError(
            f'{path}: chat_template has to be a text or a list of {{"name": ..., "template": ...}}, not {stored!r:.60}'
        )
    return stored


def _content(token) -> str | None:
    """The text of a special token, which is stored as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _config(folder: Path) -> dict:
    path = folder / CONFIG_FILE
    return read_json(path) if path.is_file() else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8, from byte {error.start} on") from None
