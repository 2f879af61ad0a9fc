"""A model as a Hugging Face folder: config.json, generation_config.json, and weights in safetensors
files.

What differs from one architecture to the other, its model class answers (models/architecture.py).
What minillm saves, `transformers` opens, and the other way round.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.files.model_folder import CONFIG_FILE
from minillm.files.safetensors_file import StoredTensor
from minillm.files.shards import open_weights
from minillm.models.architecture import Architecture
from minillm.models.architectures import ARCHITECTURES, architecture_of
from minillm.models.config_keys import QUANTISED_WAY_OUT, check_heads_of
from minillm.models.language_model import LanguageModel
from minillm.pretrained.stored_weights import EXPANDED, fill, stored_matrix

HEAD = "lm_head.weight"
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
QUANTISED_TENSOR = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|weight_scale|weight_scale_inv|input_scale|weight_zero_point|weight_packed|SCB|absmax|"
    r"quant_map|biases)$|\.(absmax|quant_map|nested_absmax|quant_state\..*)$"
)


def load_model(folder: str | Path, dtype="float32", weights: str = EXPANDED) -> LanguageModel:
    """The model of a folder with config.json and safetensors files, in evaluation mode.

    Weights that already have this dtype are memory-mapped until they are used; the files must not
    be changed in place meanwhile (replacing a file by another of the same name is safe, and is what
    minillm does). weights: see stored_weights.py. Raises UserError naming the file and the tensor
    that is missing, extra, of the wrong shape or not finite.
    """
    config, stored = open_folder(Path(folder))
    model = architecture_of(config)(config, seed=None, dtype=dtype)
    return fill(
        model,
        lambda name: None if weights == EXPANDED else stored_matrix(stored[name]),
        lambda name, dtype: stored[name].read(dtype),
    )


def open_folder(folder: Path) -> tuple[object, dict[str, StoredTensor]]:
    """(the configuration of a folder, its tensors by the names of the model's parameters), nothing
    of them read but what must be zero.

    Raises UserError as `load_model` does.
    """
    config = read_config(folder)
    kind, path = architecture_of(config), folder / CONFIG_FILE
    _check_not_quantised(folder)
    weights, source = open_weights(folder)
    stored = _by_full_name(weights, kind, config, source)
    config = _with_own_head(config, stored, kind.embedding_name())
    if config.n_layer > len(stored):  # before so many layers are made
        raise UserError(f"{source} holds {len(stored)} tensors, too few for the {config.n_layer} layers of {path}")
    parameters, zeros = kind(config, seed=None).parameters(), kind.zero_tensors(config)
    _check_names(set(stored), set(parameters), set(zeros), source)
    shapes = {name: parameter.value.shape for name, parameter in parameters.items()} | zeros
    for name, shape in shapes.items():
        if name in stored:
            _check_shape(stored[name], shape)
    for name in zeros:
        if name in stored and stored[name].read(np.float32).any():
            raise UserError(f'{stored[name].path}: {name} is not zero, but config.json says "bias": false')
    return config, stored


def read_config(folder: Path):
    """The configuration in a folder's config.json.

    Raises UserError for one that minillm cannot build.
    """
    path = folder / CONFIG_FILE
    contents = read_json(path)
    model_type = contents.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        kind = " (a mixture of experts)" if any("expert" in name or "moe" in name for name in contents) else ""
        raise UserError(f"{path}: model_type is {model_type!r:.99}{kind}, minillm opens {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[model_type]
    try:
        check_heads_of(contents)
        contents = _with_usual_names(contents, architecture.aliases)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    missing = [name for name in architecture.required if contents.get(name) is None]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; is this the config.json of a complete model folder?")
    try:
        return architecture.config_from_hugging_face(contents)
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


def _by_full_name(
    weights: dict[str, StoredTensor], kind: type[Architecture], config, source: Path
) -> dict[str, StoredTensor]:
    """The weights under the names of the model's parameters; computed tensors among them are
    checked and left out.
    """
    stored = {}
    for name, tensor in weights.items():
        if kind.is_computed(name):
            kind.check_computed(tensor, config)
            continue
        full = kind.full_name(name)
        if full in stored:
            raise UserError(f"{source} holds tensor {full} twice, as {stored[full].name} and as {name}")
        if QUANTISED_TENSOR.search(name):
            raise UserError(f"{source} holds a quantised model (tensor {name}): {QUANTISED_WAY_OUT}")
        stored[full] = tensor
    return stored


def _with_own_head(config, stored: dict[str, StoredTensor], embedding: str):
    """The configuration that fits the file: with "tied", a head that differs from the embedding is
    separate.

    As in transformers since version 5. If the file has only the head, it is the embedding as well.
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
