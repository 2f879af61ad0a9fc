"""Llama and its relatives in the files of others: the keys of config.json and GGUF, and the names
of their tensors.

`transformers` rotates pairs (i, i + D/2). A model with interleaved pairs is saved with the rows of
its query and key weights moved accordingly, and is then a model of pairs (i, i + D/2): the same
function. llama.cpp rotates interleaved pairs in files of the architecture "llama", whose rows are
moved for it.
"""

from __future__ import annotations

from minillm.layers.rotary import interleaved_to_halves
from minillm.models.architecture import GGUFKey
from minillm.models.config_keys import check_keys
from minillm.models.rope_gguf import GGUF_ROPE_KEYS, GGUF_ROPE_TENSORS
from minillm.models.rope_names import ROPE_KEYS

LLAMA_NAMES = {  # Hugging Face -> GGUF
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
INVERSE_FREQUENCIES = r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq"  # in files of old versions

LLAMA_FIELDS = {  # ours -> Hugging Face's
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
LLAMA_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6}
LLAMA_GGUF_KEYS = {
    "context_length": GGUFKey("context_length", int),
    "block_count": GGUFKey("n_layer", int),
    "attention.head_count": GGUFKey("n_head", int),
    "attention.head_count_kv": GGUFKey("n_kv_head", int, None),
    "embedding_length": GGUFKey("d_model", int),
    "feed_forward_length": GGUFKey("d_ff", int),
    "attention.key_length": GGUFKey("head_dim", int, None),
    "attention.layer_norm_rms_epsilon": GGUFKey("rms_norm_eps", float, 1e-5),
    "rope.freq_base": GGUFKey("rope_theta", float, 10000.0),
}
LLAMA_GGUF_EXTRA_KEYS, LLAMA_GGUF_EXTRA_TENSORS = GGUF_ROPE_KEYS, GGUF_ROPE_TENSORS
_NEUTRAL = {"hidden_act": ("silu", "swish")}  # keys that change nothing at these values
FULL, SLIDING = "full_attention", "sliding_attention"


def check_llama_keys(contents: dict, fields: dict[str, str], neutral: dict[str, tuple] | None = None) -> None:
    """Raises UserError for a key of config.json that changes the computation, and is not one of a
    Llama's.

    fields: as `Architecture.fields`. neutral: further keys, and values at which they change
    nothing.
    """
    used = {*fields.values(), *ROPE_KEYS, "use_sliding_window"}
    check_keys(contents, used, {**_NEUTRAL, **_neutral_windows(contents), **(neutral or {})})


def _neutral_windows(contents: dict) -> dict[str, tuple]:
    """Sliding windows: the values at which every layer sees the whole text."""
    context, window, kinds = (
        contents.get("max_position_embeddings", 2048),
        contents.get("sliding_window"),
        contents.get("layer_types"),
    )
    reaches_all = type(window) is int and type(context) is int and window >= context
    unused = contents.get("use_sliding_window") is False or reaches_all
    return {
        "sliding_window": (window,) if unused else (),
        "layer_types": (kinds,) if all_layers_are(FULL, contents) else (),
    }


def neutral_qwen_windows(contents: dict) -> dict[str, tuple]:
    """The same for Qwen: a window is used where use_sliding_window says so, by the layers from
    max_window_layers on.

    Where there are layer_types, they decide, as in transformers since 4.52.
    """
    layers, full = contents.get("num_hidden_layers"), contents.get("max_window_layers", 28)
    beyond = type(full) is int and type(layers) is int and full >= layers
    by_layers = contents.get("layer_types") is None and (not contents.get("use_sliding_window") or beyond)
    if by_layers or all_layers_are(FULL, contents):
        return {"sliding_window": (contents.get("sliding_window"),)}
    return {}


def all_layers_are(kind: str, contents: dict) -> bool:
    """Whether layer_types of config.json names that kind for every layer."""
    kinds = contents.get("layer_types")
    same = isinstance(kinds, list) and set(map(str, kinds)) == {kind}
    return same and len(kinds) == contents.get("num_hidden_layers")


def rows_to_halves(tensors: dict, heads: dict[str, int]) -> dict:
    """Weights of interleaved rotary pairs as those of pairs (i, i + D/2).

    heads: as `Architecture.heads_of_rows`.
    """
    moved = {}
    for name, tensor in tensors.items():
        projection = name.split(".")[-2]
        moved[name] = interleaved_to_halves(tensor, heads[projection]) if projection in heads else tensor
    return moved


def rows_to_interleaved(weight, n_head: int):
    """A query or key weight, or bias, of pairs (i, i + D/2) as that of interleaved pairs: the
    inverse of `interleaved_to_halves`.
    """
    heads = weight.reshape(n_head, 2, -1, *weight.shape[1:])  # (H, 2, D/2, ...)
    return heads.swapaxes(1, 2).reshape(weight.shape)
