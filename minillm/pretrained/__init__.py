"""Opening models that stand in files."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.files import read_json
from minillm.models.gpt2_files import CONFIG_FILE, load_gpt2

_LOADERS = {"gpt2": load_gpt2}  # model_type in config.json -> loader


def from_pretrained(folder: str | Path, dtype="float32"):
    """The model of a run folder or a Hugging Face folder, in evaluation mode.

    Raises UserError if the folder is missing or incomplete, or its files do not fit together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder: name a run folder (minillm train makes one) or a Hugging Face folder"
        )
    config = folder / CONFIG_FILE
    if not config.is_file():
        raise UserError(f"{folder} holds no model: {CONFIG_FILE} is missing")
    model_type = read_json(config).get("model_type")
    if model_type not in _LOADERS:
        raise UserError(f"{config}: model_type is {model_type!r}, minillm opens {', '.join(_LOADERS)}")
    return _LOADERS[model_type](folder, dtype)
