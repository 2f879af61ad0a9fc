"""A model as a Hugging Face folder: config.json, generation_config.json, and weights in safetensors files.

What is the same for every architecture stands here; gpt2_files.py and llama_files.py know the names in config.json and
how a tensor is stored. What minillm saves, `transformers` opens, and the other way round.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files import read_json, replacing, save_tensors, write_atomically
from minillm.models import gpt2_files, llama_files
from minillm.models.adapter_files import ADAPTER_CONFIG
from minillm.models.fine_tuning import merged
from minillm.models.language_model import LanguageModel
from minillm.models.weight_files import open_weights
from minillm.tensor_file import StoredTensor

CONFIG_FILE, WEIGHTS_FILE, GENERATION_FILE = "config.json", "model.safetensors", "generation_config.json"
ARCHITECTURES = {"gpt2": gpt2_files, "llama": llama_files}  # model_type in config.json -> what knows its files


def architecture_of(config) -> str:
    """The model type of a configuration: "gpt2" or "llama"."""
    return next(name for name, files in ARCHITECTURES.items() if isinstance(config, files.CONFIG))


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


# --------------------------------------------------------------------------------------------------------------- saving


def save_model(model: LanguageModel, folder: str | Path) -> None:
    """Write config.json, generation_config.json and model.safetensors into `folder`, each of them atomically.

    Raises UserError for the folder of an adapter: whoever opens it would get the adapter, and not this model.
    """
    folder = Path(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder} holds an adapter ({ADAPTER_CONFIG}): save the model to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_config(model.config, folder)
    save_weights(model, folder / WEIGHTS_FILE)


def save_config(config, folder: Path) -> None:
    """Write config.json and generation_config.json."""
    contents = ARCHITECTURES[architecture_of(config)].config_to_hugging_face(config)
    write_atomically(folder / CONFIG_FILE, _json(contents))
    write_atomically(folder / GENERATION_FILE, _json({"do_sample": True, "max_length": config.context_length}))


def save_weights(model: LanguageModel, path: Path) -> None:
    """Write the weights as one safetensors file."""
    plain = model if model.lora is None else merged(model)
    tensors = ARCHITECTURES[architecture_of(model.config)].stored_tensors(plain)
    with replacing(path) as temporary:
        save_tensors({name: np.ascontiguousarray(t) for name, t in tensors.items()}, temporary, {"format": "pt"})


def _json(contents: dict) -> bytes:
    return (json.dumps(contents, indent=2) + "\n").encode("utf-8")


# -------------------------------------------------------------------------------------------------------------- opening


def load_model(folder: str | Path, dtype="float32") -> LanguageModel:
    """The model of a folder with config.json and safetensors files, in evaluation mode.

    Weights of the type asked for stay in their file, mapped into memory, until they are used; the files must not be
    changed in place meanwhile (to replace one by another of the same name is fine: minillm does nothing else).
    Raises UserError naming the file, and the tensor, that is missing, too many, of the wrong shape or not finite.
    """
    folder = Path(folder)
    config = read_config(folder)
    files, path = ARCHITECTURES[architecture_of(config)], folder / CONFIG_FILE
    weights, source = open_weights(folder)
    stored = {files.full_name(name): tensor for name, tensor in weights.items() if not files.is_constant(name)}
    if config.n_layer > len(stored):  # before so many layers are made
        raise UserError(f"{source} holds {len(stored)} tensors, too few for the {config.n_layer} layers of {path}")
    model = files.MODEL(config, seed=None, dtype=dtype)
    parameters, zeros = model.parameters(), files.zero_tensors(config)
    _check_names(set(stored), set(parameters), set(zeros), source)
    shapes = {name: parameter.value.shape for name, parameter in parameters.items()} | zeros
    for name, shape in shapes.items():
        if name in stored:
            _check_shape(stored[name], shape)
    for name, parameter in parameters.items():
        parameter.value = stored[name].read(parameter.value.dtype)
    for name in zeros:
        if name in stored and stored[name].read(np.float32).any():
            raise UserError(f'{stored[name].path}: {name} is not zero, but config.json says "bias": false')
    return model.eval()


def read_config(folder: Path):
    """The configuration in a folder's config.json. Raises UserError for one that minillm cannot build."""
    path = folder / CONFIG_FILE
    contents = read_json(path)
    model_type = contents.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise UserError(f"{path}: model_type is {model_type!r:.99}, minillm opens {', '.join(ARCHITECTURES)}")
    files = ARCHITECTURES[model_type]
    missing = [name for name in files.REQUIRED_FIELDS if contents.get(name) is None]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; is this the config.json of a complete model folder?")
    try:
        return files.config_from_hugging_face(contents)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_names(stored: set[str], wanted: set[str], optional: set[str], source: Path) -> None:
    if missing := sorted(wanted - stored):
        raise UserError(f"{source}: tensor {missing[0]} is missing{_and_more(missing)}, which config.json calls for")
    tied_copy = {"lm_head.weight"} - wanted  # some writers store the tied head a second time
    if extra := sorted(stored - wanted - optional - tied_copy):
        raise UserError(f"{source}: tensor {extra[0]}{_and_more(extra)} does not belong to the model of config.json")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_shape(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != tuple(shape):
        raise UserError(
            f"{tensor.path}: tensor {tensor.name} has shape {tensor.shape}, config.json calls for {tuple(shape)}"
        )
