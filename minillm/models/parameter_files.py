"""The weights of any model in one file, to be put back into a model that the same code has built.

A model folder describes a model by its configuration. A model that was changed in Python is
described by that Python code alone, so what is kept of it is its weights: a safetensors file of
`model.parameters()`, by their names. Beside them, the file's metadata says of which layers the
model was made, with the constants of those that minillm knows, so that the weights are not
taken for those of another model with the same tensors.

    minillm.save_parameters(model, "mine.safetensors")
    model = build_my_model()
    minillm.load_parameters(model, "mine.safetensors")
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

from minillm.backend.arrays import device_of, to_device, to_host
from minillm.errors import UserError
from minillm.files.atomic import replacing
from minillm.files.safetensors_file import read_header
from minillm.files.shards import PARAMETERS_FORMAT
from minillm.layers.layer import Layer
from minillm.layers.stored_weight import refuse_stored
from minillm.models.structure import description

STRUCTURE = "structure"


def save_parameters(model: Layer, path: str | Path) -> None:
    """Write every parameter of a model or layer, and what it is made of, to a safetensors file,
    atomically.
    """
    refuse_stored(model, "be saved (minillm export writes its file in other forms)")
    tensors = {name: np.ascontiguousarray(to_host(p.value)) for name, p in model.parameters().items()}
    metadata = {"format": PARAMETERS_FORMAT, STRUCTURE: json.dumps(description(model))}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata)


def load_parameters(model: Layer, path: str | Path) -> None:
    """Put the values of a file that `save_parameters` wrote into a model, in the model's precision
    and on its device.

    Raises UserError, before anything is changed, naming the layer, constant or tensor in which
    model and file differ.
    """
    path = Path(path)
    tensors, parameters = read_header(path), model.parameters()
    _check_structure(_stored_structure(path), description(model), path)
    if differing := sorted(set(tensors) ^ set(parameters)):
        where = "the file" if differing[0] in tensors else "the model"
        raise UserError(
            f"{path}: only {where} has a tensor {differing[0]}: build the model as it was when it was saved"
        )
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.value.shape:
            raise UserError(
                f"{path}: {name} has shape {tensors[name].shape}, that of the model {parameter.value.shape}"
            )
    values = {name: tensors[name].read(parameter.value.dtype) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.value = to_device(values[name], device_of(parameter.value))


def _stored_structure(path: Path) -> dict[str, list[str]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != PARAMETERS_FORMAT or STRUCTURE not in metadata:
        raise UserError(f"{path} was not written by minillm.save_parameters; minillm.from_pretrained opens model files")
    try:
        return json.loads(metadata[STRUCTURE])
    except ValueError as error:
        raise UserError(f"{path}: what it says of the model's structure is no JSON: {error}") from None


def _check_structure(stored: dict[str, list[str]], found: dict[str, tuple[str, str]], path: Path) -> None:
    for place in [*stored, *(place for place in found if place not in stored)]:
        then, now = stored.get(place), found.get(place)
        if then is None or now is None or tuple(then) != now:
            was = "nothing" if then is None else " ".join(then)
            is_now = "nothing" if now is None else " ".join(now)
            raise UserError(
                f"{path} is of another model: at {place or 'the model itself'} the file's model has {was}, this one {is_now}"
            )
