"""The weights of a model that is to be written, each read when it is asked for.

A model that was opened has all of them in memory. Here a folder or a GGUF file is left on the disk:
a model much larger than the memory can be written in another form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minillm.backend.arrays import to_host
from minillm.layers.lora import LoRALinear
from minillm.layers.stored_weight import refuse_stored
from minillm.models.architectures import architecture_of
from minillm.models.language_model import LanguageModel
from minillm.models.structure import refuse_changed
from minillm.pretrained import from_pretrained
from minillm.pretrained.gguf import is_gguf, open_gguf_weights
from minillm.pretrained.hugging_face import open_folder
from minillm.pretrained.sources import model_chain

FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True)
class Weights:
    """kind: the class of the model. read: the name of a parameter -> its value, float32.

    shapes: of the parameters, by name. stored_as: "f32", "f16" or "bf16", as most numbers of the
    source are stored.
    """

    kind: type[LanguageModel]
    config: object
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    stored_as: str = "f32"


def weights_of(model: LanguageModel) -> Weights:
    """The weights of a model in memory, LoRA merged layer by layer.

    Raises UserError for a model that is not what its configuration describes.
    """
    refuse_changed(model, "be exported")
    refuse_stored(model, "be exported: name its file")
    adapted = {f"{path}.weight": layer for path, layer in model.layers() if isinstance(layer, LoRALinear)}
    parameters = model.parameters()

    def read(name: str) -> np.ndarray:
        value = adapted[name].merged_weight() if name in adapted else parameters[name].value
        return np.asarray(to_host(value), np.float32)

    kind = architecture_of(model.config)
    return Weights(kind, model.config, _shapes(kind, model.config), read)


def open_weights_of(source: str | Path, revision: str | None = None) -> Weights:
    """The weights of a folder, a file or a name on the hub; an adapter is merged, in memory.

    Raises UserError as `from_pretrained` does.
    """
    path, *bases = model_chain(source, revision)
    if path.is_dir() and not bases:
        config, stored = open_folder(path)
        kind = architecture_of(config)
        matrix = stored[kind.embedding_name()]
        return Weights(
            kind,
            config,
            _shapes(kind, config),
            lambda name: stored[name].read(np.float32),
            FLOATS.get(matrix.dtype, "f32"),
        )
    if path.is_file() and is_gguf(path):
        opened = open_gguf_weights(path)
        as_stored = FLOATS.get(opened.file.type_of(opened.kind.gguf_tensor(opened.kind.embedding_name())), "f32")
        return Weights(opened.kind, opened.config, opened.shapes, lambda name: opened.read(name, np.float32), as_stored)
    return weights_of(from_pretrained(source, revision=revision))


def _shapes(kind: type[LanguageModel], config) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.value.shape) for name, parameter in kind(config, seed=None).parameters().items()}
