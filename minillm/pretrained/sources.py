"""Finding the model that a user named: a folder, a file or a name on the hub; and describing
anything else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from minillm.errors import UserError
from minillm.files.kinds import OTHER_FORM, misnamed, pickled
from minillm.files.model_folder import ADAPTER_CONFIG, CONFIG_FILE
from minillm.files.shards import PICKLES
from minillm.pretrained.hub import fetch_from_hub, looks_like_hub_name

# a file that identifies another kind of folder -> that kind
OTHER_FOLDERS = {
    "model_index.json": "a pipeline of diffusers (pictures), not a language model",
    "modules.json": "a model of sentence-transformers (embeddings), not a language model",
    "params.json": "a model in Meta's own form (params.json): get it in Hugging Face's form, with config.json",
    "tf_model.h5": "a model in TensorFlow's form",
    "flax_model.msgpack": "a model in Flax's form",
    "*.onnx": "a model in ONNX's form",
    "openvino_model.xml": "a model in OpenVINO's form",
    "*.mlmodel": "a model in Core ML's form",
    "adapter_model.*": "an adapter without its adapter_config.json",
    "*.safetensors": "weights without their config.json",
    "training/state.json": "a run whose config.json is missing",
    "tokenizer.json": "a tokenizer only, without a model",
    "tokenizer.model": "a tokenizer only, without a model",
    "vocab.json": "a tokenizer only, without a model",
}


def model_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder `source`; a name that is not a folder is downloaded from the Hugging Face hub.

    Raises UserError, saying what it is, for anything but a model folder.
    """
    folder = Path(source)
    if folder.is_file():
        raise UserError(describe_file(folder))
    if not folder.is_dir():
        name = str(source)
        if not looks_like_hub_name(name):
            raise UserError(
                f"{folder} is not a folder: name a run folder (minillm train makes one), a Hugging Face folder, or a model "
                "on the Hugging Face hub as owner/model"
            )
        folder = fetch_from_hub(name, revision)
    if not any((folder / name).is_file() for name in (CONFIG_FILE, ADAPTER_CONFIG)):
        raise UserError(_describe_folder(folder))
    return folder


def model_chain(source: str | Path, revision: str | None = None) -> Iterator[Path]:
    """The file or folder `source`; if that is an adapter, then its base model, and so on.

    The last one is not an adapter. Names on the hub are downloaded when they are reached. Raises
    UserError for adapters that form a cycle.
    """
    seen: list[Path] = []
    while True:
        path = Path(source) if Path(source).is_file() else model_folder(source, revision)
        if any(os.path.samefile(path, other) for other in seen):
            circle = " -> ".join(map(str, [*seen, path]))
            raise UserError(
                f"{path} is an adapter of itself ({circle}): {path / ADAPTER_CONFIG} must name in base_model_name_or_path the "
                "model that it was trained on"
            )
        yield path
        if path.is_file() or not (path / ADAPTER_CONFIG).is_file():
            return
        from minillm.pretrained.adapter import adapter_base, adapter_revision

        seen.append(path)
        source, revision = adapter_base(path), adapter_revision(path)


def describe_file(path: Path) -> str:
    """A message for a file that is not a model."""
    if kind := misnamed(path):
        return f"{path} is not a model file that minillm can open: it is {kind}"
    if path.suffix == ".safetensors":
        return f"{path} holds weights only: name its folder, {path.parent}, in which config.json says what they mean"
    if pickled(path):
        return (
            f"{path} is a pickle, which can run any program when it is opened: get the model in safetensors format, "
            "or convert it where you trust it with transformers: model.save_pretrained(folder, safe_serialization=True)"
        )
    if path.suffix == ".onnx":
        return f"{path} is a model in ONNX's form: {OTHER_FORM}"
    if path.suffix == ".json":
        return f"{path} is one file of a model: name its folder, {path.parent}"
    return f"{path} is not a model file that minillm can open: {OTHER_FORM}"


def _describe_folder(folder: Path) -> str:
    """A message for a folder without config.json and adapter_config.json."""
    start = f"{folder} holds no model: {CONFIG_FILE} is missing"
    if files := sorted(path.name for path in folder.glob("*.gguf")):
        return f"{start}; it holds {len(files)} GGUF file(s): name one, {folder / files[0]}"
    for name, kind in OTHER_FOLDERS.items():
        if any(folder.glob(name)):
            return f"{start}; it is {kind}"
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        return f"{start}; it holds a pickle ({next(p.name for q in PICKLES for p in folder.glob(q))}) only"
    snapshots = [path.parent for path in folder.glob("snapshots/*/config.json")]
    deeper = snapshots or [path.parent for path in folder.glob(f"*/{CONFIG_FILE}")]
    deeper += [path.parent for path in folder.glob(f"*/{ADAPTER_CONFIG}")]
    if deeper:
        return f"{start}; the model is one folder deeper: name {sorted(deeper)[-1]}"
    return f"{start}; it is empty" if not any(folder.iterdir()) else start
