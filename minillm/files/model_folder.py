"""A model folder as Hugging Face lays it out: the names of its files, and writing them, each
atomically.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import json_bytes, replacing, save_tensors, write_atomically

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
GENERATION_FILE = "generation_config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def make_model_folder(folder: str | Path) -> Path:
    """Make the folder if it is not there.

    Raises UserError for an adapter's: it would be opened in place of the model.
    """
    folder = Path(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder} holds an adapter ({ADAPTER_CONFIG}): save the model to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_config(folder: Path, config: dict, generation: dict) -> None:
    """Write config.json and generation_config.json with these contents."""
    write_atomically(folder / CONFIG_FILE, json_bytes(config))
    write_atomically(folder / GENERATION_FILE, json_bytes(generation))


def write_weights(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write tensors by name as one safetensors file."""
    with replacing(path) as temporary:
        save_tensors({name: np.ascontiguousarray(t) for name, t in tensors.items()}, temporary, {"format": "pt"})
