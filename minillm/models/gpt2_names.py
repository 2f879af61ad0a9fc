"""GPT-2 in the files of others: the keys of config.json and GGUF, and the names of its tensors.

GPT-2 in `transformers` always has biases: a model without them is saved with biases of zero and
`"bias": false` in config.json, which only minillm reads.
"""

from __future__ import annotations

from minillm.errors import UserError
from minillm.models.architecture import GGUFKey
from minillm.models.config_keys import check_keys

GPT2_NAMES = {  # Hugging Face -> GGUF
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
CAUSAL_MASK_BUFFERS = r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"  # constants in OpenAI's own files

GPT2_FIELDS = {  # ours -> Hugging Face's
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "d_model": "n_embd",
    "d_ff": "n_inner",
    "tie_embeddings": "tie_word_embeddings",
    "activation": "activation_function",
    "layer_norm_eps": "layer_norm_epsilon",
}
GPT2_REQUIRED = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
GPT2_ALIASES = {  # other names of keys, by which transformers takes them, too
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
GPT2_GGUF_KEYS = {
    "context_length": GGUFKey("context_length", int),
    "block_count": GGUFKey("n_layer", int),
    "attention.head_count": GGUFKey("n_head", int),
    "embedding_length": GGUFKey("d_model", int),
    "feed_forward_length": GGUFKey("d_ff", int),
    "attention.layer_norm_epsilon": GGUFKey("layer_norm_eps", float, 1e-5),
}
_SAME_ACTIVATIONS = {"gelu_fast": "gelu_new", "gelu_python": "gelu", "gelu_accurate": "gelu_new"}
_DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
_USED = {*GPT2_FIELDS.values(), *_DROPOUTS, "bias"}
_USED |= {"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention"}
# reorder_and_upcast_attn: the same sums in float32; n_ctx: what n_positions was called at first
_NEUTRAL = {"reorder_and_upcast_attn": (True, False), "n_special": (0,)}
_OF_NO_EFFECT = {"n_ctx", "predict_special_tokens"}


def dropout_and_bias_to_hugging_face(dropout: float, bias: bool) -> dict:
    """The keys of config.json for dropout, which GPT-2 has three times, and for biases."""
    return {**dict.fromkeys(_DROPOUTS, dropout), "bias": bias}


def dropout_and_bias_from_hugging_face(contents: dict) -> dict:
    """dropout, bias and activation.

    Raises UserError for a key that changes the computation and is not known here.
    """
    if not contents.get("scale_attn_weights", True) or contents.get("scale_attn_by_inverse_layer_idx", False):
        raise UserError("its attention is scaled in another way than GPT-2's, which minillm does not compute")
    if contents.get("add_cross_attention", False):
        raise UserError("add_cross_attention is true: minillm has no cross-attention")
    check_keys(contents, _USED | _OF_NO_EFFECT, _NEUTRAL)
    found = {"dropout": contents.get("resid_pdrop", 0.0), "bias": contents.get("bias", True)}
    activation = contents.get("activation_function")
    return found | ({"activation": _SAME_ACTIVATIONS[activation]} if _is_renamed(activation) else {})


def _is_renamed(activation) -> bool:
    return isinstance(activation, str) and activation in _SAME_ACTIVATIONS


def is_causal_mask(name: str, shape: tuple[int, ...], context_length: int) -> bool:
    """Whether a buffer of OpenAI's files has the shape of a causal mask; its values are not read,
    they are many.
    """
    return not name.endswith(".bias") or len(shape) == 4 and shape[2] == shape[3] >= context_length


def zero_biases(n_layer: int, d_model: int, d_ff: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the biases that a model without biases does not have, and that are zero
    in its file.
    """
    c, f = d_model, d_ff
    widths = {"ln_1": c, "attn.c_attn": 3 * c, "attn.c_proj": c, "ln_2": c, "mlp.c_fc": f, "mlp.c_proj": c}
    shapes = {
        f"transformer.h.{index}.{part}.bias": (width,) for index in range(n_layer) for part, width in widths.items()
    }
    return shapes | {"transformer.ln_f.bias": (c,)}
