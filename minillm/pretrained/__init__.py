"""Opening models that stand in files."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.models.adapter_files import ADAPTER_CONFIG, adapter_base, apply_adapter
from minillm.models.fine_tuning import with_settings
from minillm.models.folder import CONFIG_FILE, load_model, read_config
from minillm.pretrained.gguf import is_gguf, load_gguf
from minillm.pretrained.gguf_tokenizer import load_gguf_tokenizer
from minillm.pretrained.huggingface import fetch_from_hub, looks_like_hub_name
from minillm.pretrained.llama2c import is_llama2c, load_llama2c, load_llama2c_tokenizer
from minillm.tokenizers import load_tokenizer
from minillm.tokenizers.tokenizer import TOKENIZER_FILE

__all__ = ["from_pretrained", "model_folder", "tokenizer_of"]


def from_pretrained(source: str | Path, dtype="float32", revision: str | None = None):
    """The model of a run folder, a Hugging Face folder, a GGUF or llama2.c file, or a name on the Hugging Face hub.

    revision: of a name on the hub, a branch, tag or commit. Raises UserError if the source is missing or incomplete, or its
    files do not fit together.
    """
    if Path(source).is_file():
        return _file_kind(Path(source))[0](source, dtype)
    folder = model_folder(source, revision)
    if not (folder / ADAPTER_CONFIG).is_file():
        return load_model(folder, dtype)
    model = apply_adapter(from_pretrained(adapter_base(folder), dtype), folder)
    if (folder / CONFIG_FILE).is_file():  # a run may use less than the whole context
        model = with_settings(model, context_length=read_config(folder).context_length)
    return model


def tokenizer_of(source: str | Path, revision: str | None = None):
    """The tokenizer that belongs to the model that `from_pretrained` opens."""
    if Path(source).is_file():
        return _file_kind(Path(source))[1](source)
    folder = model_folder(source, revision)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / TOKENIZER_FILE).is_file():
        return tokenizer_of(adapter_base(folder))
    return load_tokenizer(folder)


def _file_kind(path: Path):
    """The functions that open the model and the tokenizer of a file. Raises UserError for a file of no known kind."""
    if is_gguf(path):
        return load_gguf, load_gguf_tokenizer
    if is_llama2c(path):
        return load_llama2c, load_llama2c_tokenizer
    raise UserError(_describe_file(path))


def model_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder that `source` names; a name that is no folder is fetched from the Hugging Face hub."""
    folder = Path(source)
    if folder.is_file():
        raise UserError(_describe_file(folder))
    if not folder.is_dir():
        name = str(source)
        if looks_like_hub_name(name):
            return fetch_from_hub(name, revision)
        raise UserError(
            f"{folder} is not a folder: name a run folder (minillm train makes one), a Hugging Face folder, or a model on the "
            "Hugging Face hub as owner/model"
        )
    if not any((folder / name).is_file() for name in (CONFIG_FILE, ADAPTER_CONFIG)):
        raise UserError(f"{folder} holds no model: {CONFIG_FILE} is missing")
    return folder


def _describe_file(path: Path) -> str:
    if path.suffix == ".safetensors":
        return f"{path} holds weights only: name its folder, {path.parent}, in which config.json says what they mean"
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            f"{path} is a pickle, which can run any program when it is opened: get the model in safetensors format, "
            "or convert it where you trust it with transformers: model.save_pretrained(folder, safe_serialization=True)"
        )
    return f"{path} is no model file that minillm knows"
