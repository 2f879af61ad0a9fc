"""Writing a model as a Hugging Face folder: the files of one that minillm trained, with numbers of
another type and in shards.

The folder is put together beside its place under a temporary name, and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import flush_to_disk, json_bytes, naming, read_json, write_atomically
from minillm.files.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG_FILE, GENERATION_FILE, write_config
from minillm.files.number_types import BYTES, stored
from minillm.files.safetensors_file import read_header
from minillm.files.safetensors_writer import size_in_bytes, write_shards
from minillm.files.shards import INDEX_FILE, SHARD, WEIGHTS_FILE, file_inside
from minillm.models.carried import TEMPLATE_FILE, TEMPLATE_FOLDER, TOKENIZER_CONFIG, Carried
from minillm.models.llama_names import rows_to_halves
from minillm.pretrained import model_chain, tokenizer_of
from minillm.pretrained.carried import carried_from
from minillm.pretrained.weights import Weights
from minillm.tokenizers.tokenizer import TOKENIZER_FILE

TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# what a folder may hold that is replaced
KNOWN = {
    CONFIG_FILE, GENERATION_FILE, WEIGHTS_FILE, INDEX_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG, TEMPLATE_FILE, TEMPLATE_FOLDER,
    ADAPTER_CONFIG, ADAPTER_WEIGHTS,
}  # fmt: skip


def write_folder(
    weights: Weights,
    folder: Path,
    kind: str,
    tokenizer,
    carried: Carried,
    shard_size: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a model as the folder `folder`; returns notes, of which there are none.

    kind: one of number_types.BYTES. tokenizer: None for a folder without one. shard_size: of each
    file of weights, such as "5GB"; None for one file. Raises UserError for a folder that is not to
    be replaced, and for a number that f16 cannot hold.
    """
    limit = None if shard_size is None else size_in_bytes(shard_size)
    architecture, config = weights.kind, weights.config
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}: it is not this model's "
            "tokenizer"
        )
    zeros = architecture.zero_tensors(config)
    shapes = {**weights.shapes, **zeros}
    heads = architecture.heads_of_rows(config) if getattr(config, "rope_interleaved", False) else {}
    total, done = sum(int(np.prod(shape)) for shape in shapes.values()) * BYTES[kind], 0

    def read(name: str) -> np.ndarray:
        nonlocal done
        value = (
            np.zeros(zeros[name], np.float32)
            if name in zeros
            else rows_to_halves({name: weights.read(name)}, heads)[name]
        )
        done += value.size * BYTES[kind]
        if progress is not None:
            progress(done, total)
        return stored(value, kind, name)

    with _replacing_folder(folder, overwrite) as temporary:
        contents = {**architecture.config_to_hugging_face(config), **carried.ids}
        # transformers reads `dtype` since version 4.56, and torch_dtype before
        names = dict.fromkeys(("dtype", "torch_dtype"), TORCH_NAMES[kind])
        write_config(temporary, contents | names, carried.generation_config(config.context_length))
        _write_texts(temporary, tokenizer, carried)
        write_shards(temporary, shapes, kind, read, limit)
    return []


def write_adapter(source, folder: Path, tokenizer, revision: str | None, overwrite: bool) -> list[str]:
    """Write the LoRA of an adapter or a run as an adapter of peft, with its tokenizer.

    Raises UserError for a source that is none.
    """
    adapter = None if source is None else next(model_chain(source, revision))
    if adapter is None or not (adapter / ADAPTER_CONFIG).is_file():
        raise UserError(f"{source or 'a model in memory'} is no adapter: leave out --adapter to export the whole model")
    contents = read_json(adapter / ADAPTER_CONFIG)
    weights = file_inside(adapter / ADAPTER_WEIGHTS, adapter)
    read_header(weights)
    with _replacing_folder(folder, overwrite) as temporary:
        write_atomically(temporary / ADAPTER_CONFIG, json_bytes(contents))
        shutil.copyfile(weights, temporary / ADAPTER_WEIGHTS)
        flush_to_disk(temporary / ADAPTER_WEIGHTS)
        _write_texts(temporary, tokenizer or tokenizer_of(source, revision), carried_from(source, revision))
    return []


def _write_texts(folder: Path, tokenizer, carried: Carried) -> None:
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        carried.write_tokenizer_config(folder)
    carried.write_templates(folder)


@contextmanager
def _replacing_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary folder; on leaving without an error it takes the place of `folder`.

    Raises UserError for a place that is taken: by anything, or with `overwrite` by more than files
    of a model.
    """
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if held and not overwrite:
        raise UserError(f"{folder} is there already: replace it with --overwrite, or name another folder")
    if others := [name for name in held if name not in KNOWN and not SHARD.fullmatch(name)]:
        raise UserError(f"{folder} holds more than a model ({others[0]}), which would be lost: name another folder")
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        with naming(folder):
            yield temporary
            flush_to_disk(temporary)
            if held:
                os.replace(folder, old)
            os.replace(temporary, folder)
            flush_to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if held and old.is_dir():
            if folder.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:  # the new one could not be put there
                os.replace(old, folder)
