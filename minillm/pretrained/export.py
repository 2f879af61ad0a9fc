"""Writing a model for other programs: as a GGUF file, or as a Hugging Face folder.

    minillm.export("runs/default-1", "model.gguf", type="q8_0")        llama.cpp and what is built on it
    minillm.export("runs/default-1", "model", type="bf16")             transformers and what is built on it

A file or a folder appears whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from minillm.errors import UserError
from minillm.files.number_types import BYTES
from minillm.models.language_model import LanguageModel
from minillm.pretrained import model_chain, tokenizer_of
from minillm.pretrained.carried import carried_from
from minillm.pretrained.chat import chat_of, has_template
from minillm.pretrained.export_folder import write_adapter, write_folder
from minillm.pretrained.export_gguf import FILE_TYPES, write_gguf
from minillm.pretrained.gguf import is_gguf, open_gguf
from minillm.pretrained.weights import open_weights_of, weights_of

GGUF_ENDING = ".gguf"
OTHER_ENDINGS = (
    ".bin", ".ckpt", ".ggml", ".h5", ".json", ".mlmodel", ".msgpack", ".npz", ".onnx", ".ot", ".pickle", ".pkl", ".pt", ".pth",
    ".safetensors", ".tar", ".tflite", ".torchscript", ".txt", ".zip",
)  # fmt: skip
OF_THE_FILE = (
    "architecture",
    "alignment",
    "file_type",
    "quantization_version",
    "type",
)  # of general.*: each file's own


def export(
    model: LanguageModel | str | Path,
    path: str | Path,
    type: str | None = None,
    tokenizer=None,
    *,
    shard_size: str | None = None,
    overwrite: bool = False,
    adapter: bool = False,
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a model as the GGUF file `path`, if that ends in .gguf, or else as a folder.

    model: a model, or a folder, a file or a name on the hub, whose tokenizer and chat templates are
    written, too; LoRA is merged. type: "f32", "f16" or "bf16", and for GGUF "q8_0"; None: as the
    source stores its weights, and f32 where they are quantised. tokenizer: in place of the
    source's; for a model in memory there is none besides. shard_size: of a folder's files, "5GB".
    overwrite: replace what is there. adapter: write the source's LoRA alone. revision: of a name on
    the hub. progress: is given the bytes that are written, and all of them.

    Returns notes on what the written form cannot say, a sentence each. Raises UserError for a model
    that cannot be written so, and for a place that is taken; then nothing is written.
    """
    path, source = Path(path), None if isinstance(model, LanguageModel) else model
    as_file = path.suffix.lower() == GGUF_ENDING
    _check_settings(path, as_file, type, shard_size, adapter)
    _check_place(path, as_file, overwrite, source, revision)
    if adapter:
        return write_adapter(source, path, tokenizer, revision, overwrite)
    if source is None:
        weights, carried = weights_of(model), model.carried
    else:
        weights, carried = open_weights_of(source, revision), carried_from(source, revision)
        tokenizer = tokenizer_of(source, revision) if tokenizer is None else tokenizer
    kind = type or weights.stored_as
    if as_file:
        path.parent.mkdir(parents=True, exist_ok=True)
        notes = write_gguf(weights, path, kind, tokenizer, carried, _about(source, revision), progress)
    else:
        notes = write_folder(weights, path, kind, tokenizer, carried, shard_size, overwrite, progress)
    return notes + _note_on_answers(source, revision, tokenizer)


def _check_settings(path: Path, as_file: bool, kind: str | None, shard_size: str | None, adapter: bool) -> None:
    if path.suffix.lower() in OTHER_ENDINGS:
        raise UserError(f"{path}: minillm does not write {path.suffix} files: end the name in .gguf, or name a folder")
    known = FILE_TYPES if as_file else BYTES
    if kind is not None and kind not in known:
        hint = ": only a GGUF file can be q8_0" if kind in FILE_TYPES else ""
        raise UserError(f'{path}: the type "{kind}" is not one of {", ".join(known)}{hint}')
    if as_file and shard_size is not None:
        raise UserError(f"{path}: a GGUF file is written whole: leave out the size of shards, or name a folder")
    if adapter and (as_file or kind or shard_size):
        raise UserError(
            f"{path}: an adapter is written to a folder, with the numbers that it has: leave out type and shards"
        )


def _check_place(path: Path, as_file: bool, overwrite: bool, source, revision: str | None) -> None:
    """Raises UserError if something is at `path` that is not to be replaced."""
    if not os.path.lexists(path):
        return
    for used in [] if source is None else model_chain(source, revision):
        if os.path.samefile(used, path):
            raise UserError(f"{path} is the model itself: name another {'file' if as_file else 'folder'}")
    if as_file == path.is_dir():
        raise UserError(f"{path} is {'a folder: name a file in it' if as_file else 'a file: name a folder'}")
    if as_file and not overwrite:
        raise UserError(f"{path} is there already: replace it with --overwrite, or name another file")


def _note_on_answers(source, revision: str | None, tokenizer) -> list[str]:
    """That other programs do not know where an answer ends, if no token ends it."""
    if source is None or not has_template(source, revision):
        return []
    try:
        chat = chat_of(source, revision)
    except UserError:  # none of several is the default one
        return []
    end = chat.end_text(tokenizer)
    if not end or chat.answer_ends(tokenizer):
        return []
    return [f"no token ends an answer of this model: tell other programs to stop at the text {end!r}, as minillm does"]


def _about(source, revision: str | None) -> dict[str, str]:
    """general.* of the new file: those of a GGUF file, or the name of the folder."""
    if source is None:
        return {}
    first = next(model_chain(source, revision))
    if first.is_file() and is_gguf(first):
        said = {key: value for key, value in open_gguf(first).settings.items() if key.startswith("general.")}
        kept = {key: value for key, value in said.items() if key.split(".")[1] not in (*OF_THE_FILE, "sampling")}
        return {key: value for key, value in kept.items() if isinstance(value, (str, int)) and value != ""}
    return {"general.name": Path(source).name if Path(source).exists() else str(source)}
