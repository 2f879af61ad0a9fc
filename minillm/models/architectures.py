"""The registry: every architecture by its model type.

An architecture is added with its import and its name in the list.
"""

from __future__ import annotations

from dataclasses import asdict

from minillm.errors import UserError
from minillm.models.gpt2 import GPT2
from minillm.models.language_model import LanguageModel
from minillm.models.llama import Llama
from minillm.models.mistral import Mistral
from minillm.models.qwen2 import Qwen2
from minillm.models.qwen3 import Qwen3

ARCHITECTURES = {
    kind.model_type: kind
    for kind in (
        GPT2,
        Llama,
        Mistral,
        Qwen2,
        Qwen3,
    )
}


def architecture_of(config) -> type[LanguageModel]:
    """The model class of a configuration."""
    by_config = {kind.config_class: kind for kind in ARCHITECTURES.values()}
    return next(by_config[base] for base in type(config).__mro__ if base in by_config)


def config_classes() -> list[type]:
    """The configuration class of every architecture."""
    return [kind.config_class for kind in ARCHITECTURES.values()]


def make_model(config, seed: int | None = 0, dtype="float32") -> LanguageModel:
    """The model that a configuration describes."""
    return architecture_of(config)(config, seed, dtype)


def config_to_dict(config) -> dict:
    """A configuration as it is stored in a run: its fields, and the model type."""
    return {"model_type": architecture_of(config).model_type, **asdict(config)}


def config_from_dict(fields: dict):
    """The inverse of `config_to_dict`, also for runs of former versions.

    Without a model type it is a GPT-2.

    Raises UserError for impossible fields.
    """
    model_type = fields.get("model_type", GPT2.model_type)
    if model_type not in ARCHITECTURES:
        raise UserError(f"model_type is {model_type!r}: use one of {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[model_type]
    names = kind.config_class.__dataclass_fields__
    fields = {kind.former_fields.get(name, name): value for name, value in fields.items() if name != "model_type"}
    for name in fields:
        if name not in names:
            raise UserError(f"a {model_type} model has no {name}; it has {', '.join(names)}")
    return kind.config_class(**fields)
