"""A model as a Hugging Face folder: config.json, generation_config.json, and weights in safetensors files.

What is the same for every architecture stands here; gpt2_files.py and llama_files.py know the names in config.json and
how a tensor is stored. What minillm saves, `transformers` opens, and the other way round.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files import read_json, replacing, save_tensors, write_atomically
from minillm.layers.lora import LoRALinear
from minillm.models import gpt2_files, llama_files
from minillm.models.adapter_config import ADAPTER_CONFIG
from minillm.models.carried import GENERATION_FILE, NOTHING, Carried
from minillm.models.config_keys import QUANTISED_WAY_OUT, check_heads_of
from minillm.models.fine_tuning import merged
from minillm.models.language_model import LanguageModel
from minillm.models.structure import refuse_changed
from minillm.models.weight_files import open_weights
from minillm.tensor_file import StoredTensor

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
HEAD = "lm_head.weight"
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
QUANTISED_TENSOR = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|weight_scale|weight_scale_inv|input_scale|weight_zero_point|weight_packed|SCB|absmax|"
    r"quant_map|biases)$|\.(absmax|quant_map|nested_absmax|quant_state\..*)$"
)
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
    write_atomically(folder / CONFIG_FILE, _json({**contents, **carried.ids}))
    write_atomically(folder / GENERATION_FILE, _json(carried.generation_config(config.context_length)))
    carried.write_templates(folder)


def save_weights(model: LanguageModel, path: Path) -> None:
    """Write the weights as one safetensors file. Raises UserError as `save_model` does."""
    refuse_changed(model, "be saved as a model folder")
    plain = merged(model) if any(isinstance(layer, LoRALinear) for _, layer in model.layers()) else model
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
    _check_not_quantised(folder)
    weights, source = open_weights(folder)
    stored = _by_full_name(weights, files, config, source)
    config = _with_own_head(config, stored, files.EMBEDDING)
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
        kind = " (a mixture of experts)" if any("expert" in name or "moe" in name for name in contents) else ""
        raise UserError(f"{path}: model_type is {model_type!r:.99}{kind}, minillm opens {', '.join(ARCHITECTURES)}")
    files = ARCHITECTURES[model_type]
    try:
        check_heads_of(contents)
        contents = _with_usual_names(contents, files.ALIASES)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    missing = [name for name in files.REQUIRED_FIELDS if contents.get(name) is None]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; is this the config.json of a complete model folder?")
    try:
        return files.config_from_hugging_face(contents)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _with_usual_names(contents: dict, aliases: dict[str, str]) -> dict:
    named = {name: value for name, value in contents.items() if name not in aliases}
    for alias, name in aliases.items():
        value = contents.get(alias)
        if value is not None and named.get(name) not in (None, value):
            raise UserError(f"{name} is {named[name]!r:.99}, and {alias}, another name for it, is {value!r:.99}")
        named |= {name: value} if value is not None else {}
    return named


def _by_full_name(weights: dict[str, StoredTensor], files, config, source: Path) -> dict[str, StoredTensor]:
    """The weights under the names of the model's parameters; constants that stand among them are checked and left out."""
    stored = {}
    for name, tensor in weights.items():
        if files.is_constant(name):
            files.check_constant(tensor, config)
            continue
        full = files.full_name(name)
        if full in stored:
            raise UserError(f"{source} holds tensor {full} twice, as {stored[full].name} and as {name}")
        if QUANTISED_TENSOR.search(name):
            raise UserError(f"{source} holds a quantised model (tensor {name}): {QUANTISED_WAY_OUT}")
        stored[full] = tensor
    return stored


def _with_own_head(config, stored: dict[str, StoredTensor], embedding: str):
    """The configuration that the file bears out: a head beside "tied" that is not the embedding is a head of its own.

    So does transformers since version 5. If only the head is there, it is the embedding, too.
    """
    if not config.tie_embeddings or HEAD not in stored:
        return config
    if embedding not in stored:
        stored[embedding] = stored.pop(HEAD)
    elif not stored[embedding].equals(stored[HEAD]):
        return replace(config, tie_embeddings=False)
    return config


def _check_not_quantised(folder: Path) -> None:
    for name in QUANTISED_FILES:
        if (folder / name).is_file():
            raise UserError(f"{folder} is a quantised folder ({name}): {QUANTISED_WAY_OUT}")


def _check_names(stored: set[str], wanted: set[str], optional: set[str], source: Path) -> None:
    missing = sorted(wanted - stored)
    if missing == [HEAD]:
        raise UserError(
            f"{source}: tensor {HEAD} is missing: it is a model without a head for tokens, and config.json does not say that "
            "the embedding is its head (tie_word_embeddings)"
        )
    if missing:
        raise UserError(f"{source}: tensor {missing[0]} is missing{_and_more(missing)}, which config.json calls for")
    tied_copy = {HEAD} - wanted  # some writers store the tied head a second time
    if extra := sorted(stored - wanted - optional - tied_copy):
        raise UserError(f"{source}: tensor {extra[0]}{_and_more(extra)} does not belong to the model of config.json")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_shape(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != tuple(shape):
        raise UserError(
            f"{tensor.path}: tensor {tensor.name} has shape {tensor.shape}, config.json calls for {tuple(shape)}"
        )
