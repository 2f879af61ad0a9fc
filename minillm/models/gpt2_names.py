"""GPT-2 in a Hugging Face folder: the names in config.json, and how its tensors are stored.

GPT-2 in `transformers` always has biases: a model without them is saved with biases of zero and `"bias": false` in
config.json, which only minillm reads.
"""

from __future__ import annotations

import re

import numpy as np

from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.files.safetensors_file import StoredTensor
from minillm.models.config_keys import check_keys
from minillm.models.gpt2 import GPT2, GPT2Config

MODEL, CONFIG = GPT2, GPT2Config
CAUSAL_MASK_BUFFERS = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")  # constants in OpenAI's own files
EMBEDDING = "transformer.wte.weight"
REQUIRED_FIELDS = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")

_HF_FIELDS = {  # ours -> Hugging Face's
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
_USED = {*_HF_FIELDS.values(), "bias", "attn_pdrop", "embd_pdrop", "resid_pdrop", "scale_attn_weights"}
_USED |= {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}
# reorder_and_upcast_attn: the same sums in float32; n_ctx: what n_positions was called at first
_NEUTRAL = {"reorder_and_upcast_attn": (True, False), "n_special": (0,)}
_OF_NO_EFFECT = {"n_ctx", "predict_special_tokens"}
ALIASES = {  # other names of fields, by which transformers takes them, too
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_SAME_ACTIVATIONS = {"gelu_fast": "gelu_new", "gelu_python": "gelu", "gelu_accurate": "gelu_new"}


def config_to_hugging_face(config: GPT2Config) -> dict:
    """The contents of config.json."""
    fields = {theirs: getattr(config, ours) for ours, theirs in _HF_FIELDS.items()}
    dropouts = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **fields,
        **dropouts,
        "bias": config.bias,
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def config_from_hugging_face(contents: dict) -> GPT2Config:
    """The configuration in the contents of a config.json. Raises UserError for what is no GPT-2 of this kind."""
    if not contents.get("scale_attn_weights", True) or contents.get("scale_attn_by_inverse_layer_idx", False):
        raise UserError("its attention is scaled in another way than GPT-2's, which minillm does not compute")
    if contents.get("add_cross_attention", False):
        raise UserError("add_cross_attention is true: minillm has no cross-attention")
    check_keys(contents, _USED | _OF_NO_EFFECT, _NEUTRAL)
    fields = {ours: contents[theirs] for ours, theirs in _HF_FIELDS.items() if theirs in contents}
    activation = fields.get("activation")
    if isinstance(activation, str):
        fields["activation"] = _SAME_ACTIVATIONS.get(activation, activation)
    return GPT2Config(**fields, dropout=contents.get("resid_pdrop", 0.0), bias=contents.get("bias", True))


def stored_tensors(model: GPT2) -> dict[str, np.ndarray]:
    """What is written to model.safetensors."""
    tensors = {name: to_host(parameter.value) for name, parameter in model.parameters().items()}
    return tensors | {name: np.zeros(shape, np.float32) for name, shape in zero_tensors(model.config).items()}


def full_name(name: str) -> str:
    """OpenAI's own files leave out the leading "transformer."."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def is_constant(name: str) -> bool:
    """Whether a tensor is no weight, but something that minillm computes."""
    return CAUSAL_MASK_BUFFERS.fullmatch(name) is not None


def check_constant(tensor: StoredTensor, config: GPT2Config) -> None:
    """Raises UserError for a causal mask of another shape than the model's; its values are not looked at, they are many."""
    square = len(tensor.shape) == 4 and tensor.shape[2] == tensor.shape[3] >= config.context_length
    if tensor.name.endswith(".bias") and not square:
        raise UserError(f"{tensor.path}: {tensor.name} of shape {tensor.shape} is no causal mask of this model")


def zero_tensors(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the biases that a model without biases does not have, and that are zero in its file."""
    if config.bias:
        return {}
    c, f = config.d_model, config.d_ff
    widths = {"ln_1": c, "attn.c_attn": 3 * c, "attn.c_proj": c, "ln_2": c, "mlp.c_fc": f, "mlp.c_proj": c}
    shapes = {
        f"transformer.h.{index}.{part}.bias": (width,)
        for index in range(config.n_layer)
        for part, width in widths.items()
    }
    return shapes | {"transformer.ln_f.bias": (c,)}
