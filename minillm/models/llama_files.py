"""Llama in a Hugging Face folder: the names in config.json, and how its tensors are stored.

`transformers` turns pairs (i, i + D/2). A model with interleaved pairs is saved with the rows of its query and key weights
moved accordingly, and is then a model of pairs (i, i + D/2): the same function.
"""

from __future__ import annotations

import re
from dataclasses import asdict, fields

import numpy as np

from minillm.backend import to_host
from minillm.errors import UserError
from minillm.layers.rotary import Llama3Scaling, interleaved_to_halves
from minillm.models.llama import Llama, LlamaConfig

MODEL, CONFIG = Llama, LlamaConfig
REQUIRED_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
COMPUTED = re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # in files of old versions
QUERY_OR_KEY = re.compile(r"model\.layers\.\d+\.self_attn\.(q|k)_proj\.(weight|bias)")

_HF_FIELDS = {  # ours -> Hugging Face's
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "head_width": "head_dim",
    "dropout": "attention_dropout",
    "tie_embeddings": "tie_word_embeddings",
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
_HF_DEFAULTS = {"rms_norm_eps": 1e-6}  # where Hugging Face's default, which a config.json may leave out, is not ours


def config_to_hugging_face(config: LlamaConfig) -> dict:
    """The contents of config.json."""
    scaling = {"rope_type": "llama3", **asdict(config.rope_scaling)} if config.rope_scaling else None
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{theirs: getattr(config, ours) for ours, theirs in _HF_FIELDS.items()},
        "rope_scaling": scaling,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def config_from_hugging_face(contents: dict) -> LlamaConfig:
    """The configuration in the contents of a config.json. Raises UserError for what is no Llama of this kind."""
    if contents.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UserError(f"hidden_act is {contents['hidden_act']!r}: minillm computes silu")
    fields_given = {ours: contents[theirs] for ours, theirs in _HF_FIELDS.items() if contents.get(theirs) is not None}
    rope = contents.get("rope_parameters") or {}  # since transformers 5; before, rope_theta and rope_scaling
    if not isinstance(rope, dict):
        raise UserError(f"rope_parameters is {rope!r:.99}: expected an object")
    if "rope_theta" in rope:
        fields_given["rope_theta"] = rope["rope_theta"]
    scaling = _scaling(contents.get("rope_scaling") or rope or None)
    return LlamaConfig(**{**_HF_DEFAULTS, **fields_given}, rope_scaling=scaling)


def _scaling(given) -> Llama3Scaling | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise UserError(f"rope_scaling is {given!r:.99}: expected an object")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f'rope_scaling is of type {kind!r:.99}: minillm computes "llama3" and none')
    names = [field.name for field in fields(Llama3Scaling)]
    if missing := [name for name in names if name not in given]:
        raise UserError(f"rope_scaling: {missing[0]} is missing")
    return Llama3Scaling(**{name: given[name] for name in names})


def stored_tensors(model: Llama) -> dict[str, np.ndarray]:
    """What is written to model.safetensors."""
    tensors = {name: to_host(parameter.value) for name, parameter in model.parameters().items()}
    if model.config.rope_interleaved:
        heads = {"q": model.config.n_head, "k": model.config.n_kv_head}
        for name in tensors:
            if match := QUERY_OR_KEY.fullmatch(name):
                tensors[name] = interleaved_to_halves(tensors[name], heads[match[1]])
    return tensors


def full_name(name: str) -> str:
    """Some files leave out the leading "model."."""
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def is_constant(name: str) -> bool:
    """Whether a tensor is no weight, but something that minillm computes."""
    return COMPUTED.fullmatch(name) is not None


def zero_tensors(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """There are none: a Llama's biases are there or not."""
    return {}
