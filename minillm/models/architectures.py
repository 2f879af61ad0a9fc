"""The architectures: what opens, builds and saves a model by its type."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import json_bytes, replacing, save_tensors, write_atomically
from minillm.files.model_folder import ADAPTER_CONFIG, CONFIG_FILE, GENERATION_FILE, WEIGHTS_FILE
from minillm.layers.lora import LoRALinear
from minillm.models import gpt2_names, llama_names
from minillm.models.carried import NOTHING, Carried
from minillm.models.fine_tuning import merged
from minillm.models.language_model import LanguageModel
from minillm.models.structure import refuse_changed

ARCHITECTURES = {"gpt2": gpt2_names, "llama": llama_names}  # model_type in config.json -> what knows its files


def architecture_of(config) -> str:
    """The model type of a configuration: "gpt2" or "llama"."""
    return next(name for name, files in ARCHITECTURES.items() if isinstance(config, files.CONFIG))


def config_classes() -> list[type]:
    """The configuration class of every architecture."""
    return [files.CONFIG for files in ARCHITECTURES.values()]


def make_model(config, seed: int | None = 0, dtype="float32") -> LanguageModel:
    """The model that a configuration describes."""
    return ARCHITECTURES[architecture_of(config)].MODEL(config, seed, dtype)


def config_to_dict(config) -> dict:
    """A configuration as it is stored in a run: its fields, and the model type."""
    return {"model_type": architecture_of(config), **asdict(config)}


def config_from_dict(fields: dict):
    """The inverse of `config_to_dict`. Without a model type it is a GPT-2. Raises UserError for impossible fields."""
    fields = dict(fields)
    model_type = fields.pop("model_type", "gpt2")
    if model_type not in ARCHITECTURES:
        raise UserError(f"model_type is {model_type!r}: use one of {', '.join(ARCHITECTURES)}")
    config_class = ARCHITECTURES[model_type].CONFIG
    names = config_class.__dataclass_fields__
    for name in fields:
        if name not in names:
            raise UserError(f"a {model_type} model has no {name}; it has {', '.join(names)}")
    return config_class(**fields)


def save_model(model: LanguageModel, folder: str | Path) -> None:
    """Write config.json, generation_config.json and model.safetensors into `folder`, each of them atomically.

    Raises UserError, before anything is written, for a model that is not what its configuration describes, and for the folder
    of an adapter: whoever opens it would get the adapter, and not this model.
    """
    refuse_changed(model, "be saved as a model folder")
    folder = Path(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder} holds an adapter ({ADAPTER_CONFIG}): save the model to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_config(model.config, folder, model.carried)
    save_weights(model, folder / WEIGHTS_FILE)


def save_config(config, folder: Path, carried: Carried = NOTHING) -> None:
    """Write config.json, generation_config.json, and the chat templates of the model that this one was made of."""
    contents = ARCHITECTURES[architecture_of(config)].config_to_hugging_face(config)
    write_atomically(folder / CONFIG_FILE, json_bytes({**contents, **carried.ids}))
    write_atomically(folder / GENERATION_FILE, json_bytes(carried.generation_config(config.context_length)))
    carried.write_templates(folder)


def save_weights(model: LanguageModel, path: Path) -> None:
    """Write the weights as one safetensors file. Raises UserError as `save_model` does."""
    refuse_changed(model, "be saved as a model folder")
    plain = merged(model) if any(isinstance(layer, LoRALinear) for _, layer in model.layers()) else model
    tensors = ARCHITECTURES[architecture_of(model.config)].stored_tensors(plain)
    with replacing(path) as temporary:
        save_tensors({name: np.ascontiguousarray(t) for name, t in tensors.items()}, temporary, {"format": "pt"})
