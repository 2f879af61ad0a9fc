"""Opening models from files, folders and the hub."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files.model_folder import CONFIG_FILE
from minillm.pretrained.carried import carried_from
from minillm.pretrained.hugging_face import load_model, read_config
from minillm.pretrained.sources import describe_file, model_chain, model_folder
from minillm.pretrained.stored_weights import EXPANDED, check_weights, round_matrices
from minillm.tokenizers import load_tokenizer
from minillm.tokenizers.tokenizer import TOKENIZER_FILE

__all__ = ["from_pretrained", "model_chain", "model_folder", "tokenizer_of"]


def from_pretrained(source: str | Path, dtype="float32", revision: str | None = None, weights: str = EXPANDED):
    """The model of a run folder, a Hugging Face folder, a GGUF or llama2.c file, or a name on the
    Hugging Face hub.

    revision: of a name on the hub, a branch, tag or commit. weights: "stored" keeps matrices as the
    file holds them, "float16" and "bfloat16" in no more than 16 bits (stored_weights.py); such a
    model reads and writes text on the CPU, and does not learn. Raises UserError if the source is
    missing or incomplete, or its files do not fit together.
    """
    check_weights(weights, dtype)
    *adapters, base = model_chain(source, revision)
    model = (_file_kind(base)[0] if base.is_file() else load_model)(base, dtype, weights)
    round_matrices(model, weights)
    for folder in reversed(adapters):
        model = _with_adapter(model, folder)
    model.carried = carried_from(source, revision)
    return model


def tokenizer_of(source: str | Path, revision: str | None = None):
    """The tokenizer that belongs to the model that `from_pretrained` opens."""
    for path in model_chain(source, revision):
        if path.is_dir() and (path / TOKENIZER_FILE).is_file():  # an adapter's own tokenizer takes precedence
            break
    return _file_kind(path)[1](path) if path.is_file() else load_tokenizer(path)


def _with_adapter(model, folder: Path):
    from minillm.models.fine_tuning import with_settings
    from minillm.pretrained.adapter import apply_adapter

    model = apply_adapter(model, folder)
    if (folder / CONFIG_FILE).is_file():  # a run may use a shorter context
        model = with_settings(model, context_length=read_config(folder).context_length)
    return model


def _file_kind(path: Path):
    """The functions that open the model and the tokenizer of a file.

    Raises UserError for a file of no known kind. A kind's module is loaded when a file may be of
    that kind: a run folder needs none.
    """
    from minillm.pretrained.gguf import is_gguf, load_gguf
    from minillm.pretrained.gguf_tokenizer import load_gguf_tokenizer
    from minillm.pretrained.llama2c import is_llama2c, load_llama2c, load_llama2c_tokenizer

    if is_gguf(path):
        return load_gguf, load_gguf_tokenizer
    if is_llama2c(path):
        return load_llama2c, load_llama2c_tokenizer
    raise UserError(describe_file(path))
