"""Opening models that stand in files."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.models.folder import CONFIG_FILE, load_model
from minillm.pretrained.huggingface import fetch_from_hub, looks_like_hub_name

__all__ = ["from_pretrained", "model_folder"]


def from_pretrained(source: str | Path, dtype="float32", revision: str | None = None):
    """The model of a run folder, a Hugging Face folder or a name on the Hugging Face hub, in evaluation mode.

    revision: of a name on the hub, a branch, tag or commit. Raises UserError if the source is missing or incomplete, or its
    files do not fit together.
    """
    return load_model(model_folder(source, revision), dtype)


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
    if not (folder / CONFIG_FILE).is_file():
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
