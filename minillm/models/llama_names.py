"""Llama in a Hugging Face folder: the names in config.json, and how its tensors are stored.

`transformers` turns pairs (i, i + D/2). A model with interleaved pairs is saved with the rows of its query and key weights
moved accordingly, and is then a model of pairs (i, i + D/2): the same function.
"""

from __future__ import annotations

import re
from dataclasses import asdict, fields

import numpy as np

from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.files.safetensors_file import StoredTensor
from minillm.layers.rotary import Llama3Scaling, interleaved_to_halves
from minillm.layers.rotary_scaling import LinearScaling, Scaling, TableScaling
from minillm.models.config_keys import check_keys
from minillm.models.llama import Llama, LlamaConfig

MODEL, CONFIG = Llama, LlamaConfig
EMBEDDING = "model.embed_tokens.weight"
ALIASES = {}  # other names of fields
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
    "head_dim": "head_dim",
    "dropout": "attention_dropout",
    "tie_embeddings": "tie_word_embeddings",
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
_JUDGED_TOGETHER = {"rope_scaling", "rope_parameters", "original_max_position_embeddings", "use_sliding_window"}
_NEUTRAL = {"hidden_act": ("silu", "swish")}  # keys that change nothing at these values
_FULL = "full_attention"
_HF_DEFAULTS = {"rms_norm_eps": 1e-6}  # where Hugging Face's default, which a config.json may leave out, is not ours


def config_to_hugging_face(config: LlamaConfig) -> dict:
    """The contents of config.json."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{theirs: getattr(config, ours) for ours, theirs in _HF_FIELDS.items()},
        "rope_scaling": _scaling_fields(config),
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def config_from_hugging_face(contents: dict) -> LlamaConfig:
    """The configuration in the contents of a config.json. Raises UserError for what is no Llama of this kind."""
    check_keys(contents, {*_HF_FIELDS.values(), *_JUDGED_TOGETHER}, _neutral(contents))
    given = {ours: contents[theirs] for ours, theirs in _HF_FIELDS.items() if contents.get(theirs) is not None}
    rope = _rope(contents)
    if "rope_theta" in rope:
        given["rope_theta"] = rope["rope_theta"]
    return LlamaConfig(**{**_HF_DEFAULTS, **given}, rope_scaling=_scaling(rope, contents))


def _neutral(contents: dict) -> dict[str, tuple]:
    """Keys of other families that do not change a Llama at these values."""
    context, layers = contents.get("max_position_embeddings", 2048), contents.get("num_hidden_layers")
    window, kinds = contents.get("sliding_window"), contents.get("layer_types")
    reaches_all = type(window) is int and type(context) is int and window >= context
    unused = contents.get("use_sliding_window") is False or reaches_all
    all_full = isinstance(kinds, list) and len(kinds) == layers and set(map(str, kinds)) == {_FULL}
    return {**_NEUTRAL, "sliding_window": (window,) if unused else (), "layer_types": (kinds,) if all_full else ()}


def _rope(contents: dict) -> dict:
    """What config.json says of angles: rope_parameters since transformers 5, rope_scaling before, which stands above it."""
    name = "rope_scaling" if contents.get("rope_scaling") else "rope_parameters"
    rope = contents.get(name) or {}
    if not isinstance(rope, dict):
        raise UserError(f"{name} is {rope!r:.99}: expected an object")
    if kinds := sorted(name for name, value in rope.items() if isinstance(value, dict)):
        raise UserError(f"{name} differs by type of layer ({', '.join(kinds)[:99]}), which minillm does not compute")
    return rope


def _scaling(given: dict, contents: dict) -> Scaling | None:
    kind = given.get("rope_type", given.get("type", "default"))
    kinds = {"default": (), "linear": ("factor",), "llama3": _LLAMA3_FIELDS, "longrope": _LONGROPE_FIELDS}
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"rope_scaling is of type {kind!r:.99}: minillm computes {', '.join(kinds)}")
    _check_left_over(given, {*kinds[kind], "rope_type", "type", "rope_theta"})
    if kind in ("llama3", "longrope"):  # what stands outside of the object stands above what stands in it
        originals = [contents.get(_ORIGINAL), given.get(_ORIGINAL), contents.get("max_position_embeddings")]
        given = {**given, _ORIGINAL: next((number for number in originals if number is not None), None)}
    if missing := [name for name in kinds[kind] if name not in given]:
        raise UserError(f"rope_scaling: {missing[0]} is missing")
    if kind == "llama3":
        return Llama3Scaling(**{name: given[name] for name in _LLAMA3_FIELDS})
    if kind == "linear":
        return LinearScaling(given["factor"])
    return _longrope(given) if kind == "longrope" else None


def _check_left_over(given: dict, used: set[str]) -> None:
    for name, value in given.items():
        if name in used or value is None or name == "partial_rotary_factor" and value == 1:
            continue
        if name in ("attention_factor", "factor", "mscale", "mscale_all_dim") and value == 1:
            continue
        raise UserError(f"rope_scaling has {name} {value!r:.99}, which minillm does not compute")


_ORIGINAL = "original_max_position_embeddings"
_LLAMA3_FIELDS = tuple(field.name for field in fields(Llama3Scaling))
_LONGROPE_FIELDS = ("short_factor", "long_factor", "attention_factor", "factor", "original_max_position_embeddings")


def _longrope(given: dict) -> TableScaling:
    """Computed where short and long texts have the same factors, and scores are not scaled."""
    if given["short_factor"] != given["long_factor"]:
        raise UserError("rope_scaling is longrope with other factors for long texts, which minillm does not compute")
    if given.get("attention_factor") not in (1, 1.0):
        raise UserError(
            "rope_scaling is longrope with an attention_factor that is not 1, which minillm does not compute"
        )
    return TableScaling(given["short_factor"])


def _scaling_fields(config: LlamaConfig) -> dict | None:
    """rope_scaling in config.json."""
    scaling = config.rope_scaling
    if isinstance(scaling, TableScaling):
        factors, context = list(scaling.factors), config.context_length
        same = dict(short_factor=factors, long_factor=factors, attention_factor=1.0, factor=1.0)
        return {"rope_type": "longrope", **same, "original_max_position_embeddings": context}
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    return {"rope_type": "llama3", **asdict(scaling)} if scaling else None


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


def check_constant(tensor: StoredTensor, config: LlamaConfig) -> None:
    """Raises UserError if frequencies in the file are not those of config.json. Files of 16 bits have few digits of them."""
    theta = config.rope_theta ** (-2 * np.arange(config.head_dim // 2) / config.head_dim)
    possible = [theta, config.rope_scaling.stretched(theta)] if config.rope_scaling else [theta]
    stored = tensor.read(np.float64)
    if not any(stored.shape == t.shape and np.allclose(stored, t, rtol=0.02, atol=1e-7) for t in possible):
        raise UserError(f"{tensor.path}: {tensor.name} are other frequencies than rope_theta in config.json makes")


def zero_tensors(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """There are none: a Llama's biases are there or not."""
    return {}
