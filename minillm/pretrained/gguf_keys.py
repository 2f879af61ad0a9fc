"""The keys of a GGUF file: used, without effect, or refused by name.

Source: the keys as llama.cpp reads them for the architectures "llama" and "gpt2"
(src/llama-model.cpp, src/llama-context.cpp). Keys of other groups (general.*, tokenizer.*,
quantize.*, and custom ones) do not affect the model.
"""

from __future__ import annotations

import math
import re

import numpy as np

from minillm.errors import UserError
from minillm.layers.rotary_scaling import LinearScaling, Scaling, scaling_of_table
from minillm.models import GPT2Config, LlamaConfig

ROPE_FREQS = "rope_freqs.weight"
USED = {
    "llama": {
        "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
        "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    },
    "gpt2": {
        "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
        "attention.layer_norm_epsilon",
    },
}  # fmt: skip
# metadata, and parameters of scaling types that are refused
WITHOUT_EFFECT = {
    "vocab_size",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "decoder_start_token_id",
}
# these change nothing at one of the values
NEUTRAL = {
    "attention.causal": (True,), "tensor_data_layout": ("Meta AI original pth",), "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,), "attention.max_alibi_bias": (0.0,), "attention.sliding_window": (0,),
    "attention.temperature_length": (0,), "attn_logit_softcapping": (0.0,), "final_logit_softcapping": (0.0,),
    "router_logit_softcapping": (0.0,), "embedding_scale": (0.0, 1.0), "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0), "rope.scaling.attn_factor": (1.0,), "rope.scaling.yarn_log_multiplier": (0.0,),
    "expert_count": (0,), "expert_used_count": (0,), "expert_shared_count": (0,), "use_parallel_residual": (False,),
    "pooling_type": (0,), "leading_dense_block_count": (0,), "nextn_predict_layers": (0,),
}  # fmt: skip
EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate_inp|\w*exps|\w*shexp|(gate|up|down)\.\d+|exp_probs).*")
HEAD_NORMS = re.compile(r"blk\.\d+\.attn_(q|k)_norm\..*")
OTHER_TENSORS = {  # the beginning of a name -> what such a tensor is for
    "rope_factors": "scaling of the kind longrope",
    "cls": "a classifier in place of the head",
    "token_types": "token types",
    "mm.": "pictures or sound",
    "v.": "pictures",
    "a.": "sound",
}


def check_keys(file, architecture: str) -> None:
    """Raises UserError for a key of the architecture that changes the computation and is not
    supported.
    """
    kind = file.settings.get("general.type", "model")
    if kind != "model":
        raise UserError(f'{file.path} is of the type "{kind}": no whole model, which minillm needs')
    head = f"{architecture}."
    used = USED[architecture] | WITHOUT_EFFECT
    for key, value in file.settings.items():
        name = key.removeprefix(head)
        if key == name or name in used or _is_neutral(file, architecture, name, value):
            continue
        if "expert" in name:
            raise UserError(
                f"{file.path}: it is a mixture of experts ({key} is {value!r:.60}), which is not computed here"
            )
        raise UserError(f"{file.path}: {key} is {value!r:.60}, which is not computed here")


def _is_neutral(file, architecture: str, name: str, value) -> bool:
    if name in NEUTRAL and any(type(value) is type(neutral) and value == neutral for neutral in NEUTRAL[name]):
        return True
    if name == "attention.value_length":
        return value == _head_width(file, architecture)
    if name == "attention.scale" and isinstance(value, float):
        return math.isclose(value, _head_width(file, architecture) ** -0.5, rel_tol=1e-6)
    if name == "attention.sliding_window" and type(value) is int:  # a window as long as the context has no effect
        return value >= file.setting(f"{architecture}.context_length", int)
    return name == "attention.key_length" and value == _head_width(file, architecture)


def check_tensors(file, wanted: set[str], architecture: str) -> None:
    """Raises UserError, saying its purpose, for a tensor that is not part of the model."""
    extra = sorted(set(file.names()) - wanted)
    if not extra:
        return
    name, more = extra[0], f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
    if EXPERTS.fullmatch(name):
        raise UserError(f"{file.path}: it is a mixture of experts (tensor {name}{more}), which is not computed here")
    if HEAD_NORMS.fullmatch(name):
        raise UserError(f"{file.path}: it has norms on its heads (tensor {name}{more}), which are not computed here")
    for beginning, use in OTHER_TENSORS.items():
        if name.startswith(beginning):
            raise UserError(f"{file.path}: tensor {name}{more} is for {use}, which is not computed here")
    if name.endswith((".lora_a", ".lora_b")):
        raise UserError(f"{file.path} is a LoRA (tensor {name}{more}): get it in the form of peft, as a folder")
    raise UserError(f"{file.path}: tensor {name}{more} belongs to no part of a {architecture} that minillm computes")


def llama_config(file) -> LlamaConfig:
    """The shape of the Llama in a file."""
    heads, head_dim = file.setting("llama.attention.head_count", int), _head_width(file, "llama")
    if file.setting("llama.rope.dimension_count", int, head_dim) != head_dim:
        raise UserError(f"{file.path}: it turns only part of each head, which is not computed here")
    theta = file.setting("llama.rope.freq_base", float, 10000.0)
    return LlamaConfig(
        vocab_size=file.vocab_size(),
        context_length=file.setting("llama.context_length", int),
        n_layer=file.setting("llama.block_count", int),
        n_head=heads,
        n_kv_head=file.setting("llama.attention.head_count_kv", int, heads),
        d_model=file.setting("llama.embedding_length", int),
        d_ff=file.setting("llama.feed_forward_length", int),
        head_dim=head_dim,
        rms_norm_eps=file.setting("llama.attention.layer_norm_rms_epsilon", float, 1e-5),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, head_dim, theta),
        tie_embeddings="output.weight" not in file,
        attention_bias=_has_bias(file, "attn_(q|k|v|output)"),
        mlp_bias=_has_bias(file, "ffn_(gate|up|down)"),
    )


def gpt2_config(file) -> GPT2Config:
    """The shape of the GPT-2 in a file."""
    return GPT2Config(
        vocab_size=file.vocab_size(),
        context_length=file.setting("gpt2.context_length", int),
        n_layer=file.setting("gpt2.block_count", int),
        n_head=file.setting("gpt2.attention.head_count", int),
        d_model=file.setting("gpt2.embedding_length", int),
        d_ff=file.setting("gpt2.feed_forward_length", int),
        layer_norm_eps=file.setting("gpt2.attention.layer_norm_epsilon", float, 1e-5),
        tie_embeddings="output.weight" not in file,
        bias=any(name.endswith(".bias") for name in file.names()),
    )


def _head_width(file, architecture: str) -> int:
    heads = file.setting(f"{architecture}.attention.head_count", int)
    width = file.setting(f"{architecture}.embedding_length", int) // max(heads, 1)
    return file.setting("llama.attention.key_length", int, width) if architecture == "llama" else width


def _has_bias(file, part: str) -> bool:
    """Whether any block has this bias; the others then get zeros."""
    return any(re.fullmatch(rf"blk\.\d+\.{part}\.bias", name) for name in file.names())


def _rope_scaling(file, head_dim: int, theta: float) -> Scaling | None:
    """The factor of all pairs (without a type: linear) and the table of factors; both divide."""
    kind = file.settings.get("llama.rope.scaling.type", "linear")
    if kind not in ("none", "", "linear"):
        raise UserError(f"{file.path}: rotary scaling of the type {kind!r:.60} is not computed here")
    factor = 0.0
    for key in ("llama.rope.scale_linear", "llama.rope.scaling.factor"):  # the second is the newer one
        factor = file.setting(key, float, factor)
    if kind == "none" or factor == 0:
        factor = 1.0
    if not 0 < factor < math.inf:
        raise UserError(f"{file.path}: the factor of rotary scaling is {factor}, expected a number above 0")
    if ROPE_FREQS not in file:
        return None if factor == 1 else LinearScaling(factor)
    table = np.asarray(file.tensor(ROPE_FREQS, np.float64)).ravel()
    if len(table) != head_dim // 2 or not (table > 0).all():
        raise UserError(
            f"{file.path}: {ROPE_FREQS} should hold {head_dim // 2} factors above 0, one for each pair of a head; it holds "
            f"{len(table)}"
        )
    return scaling_of_table(table * factor, theta ** (-2 * np.arange(head_dim // 2) / head_dim))
