"""Opening models that stand in files."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.models.adapter_files import ADAPTER_CONFIG, adapter_base, adapter_revision, apply_adapter
from minillm.models.fine_tuning import with_settings
from minillm.models.folder import CONFIG_FILE, load_model, read_config
from minillm.pretrained.carried import carried_from
from minillm.pretrained.gguf import is_gguf, load_gguf, load_gguf_tokenizer
from minillm.pretrained.llama2c import is_llama2c, load_llama2c, load_llama2c_tokenizer
from minillm.pretrained.sources import describe_file, model_folder
from minillm.tokenizers import load_tokenizer
from minillm.tokenizers.tokenizer import TOKENIZER_FILE

__all__ = ["from_pretrained", "model_folder", "tokenizer_of"]


def from_pretrained(source: str | Path, dtype="float32", revision: str | None = None):
    """The model of a run folder, a Hugging Face folder, a GGUF or llama2.c file, or a name on the Hugging Face hub.

    revision: of a name on the hub, a branch, tag or commit. Raises UserError if the source is missing or incomplete, or its
    files do not fit together.
    """
    model = _open_model(source, dtype, revision)
    model.carried = carried_from(source, revision)
    return model


def _open_model(source: str | Path, dtype, revision: str | None):
    if Path(source).is_file():
        return _file_kind(Path(source))[0](source, dtype)
    folder = model_folder(source, revision)
    if not (folder / ADAPTER_CONFIG).is_file():
        return load_model(folder, dtype)
    model = apply_adapter(_open_model(adapter_base(folder), dtype, adapter_revision(folder)), folder)
    if (folder / CONFIG_FILE).is_file():  # a run may use less than the whole context
        model = with_settings(model, context_length=read_config(folder).context_length)
    return model


def tokenizer_of(source: str | Path, revision: str | None = None):
    """The tokenizer that belongs to the model that `from_pretrained` opens."""
    if Path(source).is_file():
        return _file_kind(Path(source))[1](source)
    folder = model_folder(source, revision)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / TOKENIZER_FILE).is_file():
        return tokenizer_of(adapter_base(folder), adapter_revision(folder))
    return load_tokenizer(folder)


def _file_kind(path: Path):
    """The functions that open the model and the tokenizer of a file. Raises UserError for a file of no known kind."""
    if is_gguf(path):
        return load_gguf, load_gguf_tokenizer
    if is_llama2c(path):
        return load_llama2c, load_llama2c_tokenizer
    raise UserError(describe_file(path))
