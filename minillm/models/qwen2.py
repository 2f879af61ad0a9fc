"""Qwen2, and Qwen2.5, which has the same shape: Llama with biases on queries, keys and values, and
on no other layer.

Source: Yang et al., "Qwen2 Technical Report" (2024), section 2.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minillm.layers.rotary_scaling import RotaryScaling
from minillm.models.config import check_flags
from minillm.models.llama import Llama, complete_llama_shape
from minillm.models.llama_names import LLAMA_FIELDS, check_llama_keys, neutral_qwen_windows
from minillm.models.rope_names import rope_from_hugging_face

BIASED = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Qwen2Config:
    """The shape of a Qwen2. Raises UserError for a shape that cannot be built.

    The fields are those of LlamaConfig, which explains them; which layers have biases is fixed.
    """

    vocab_size: int = 151936
    context_length: int = 32768
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int | None = None
    d_model: int = 768
    d_ff: int | None = None
    head_dim: int | None = None
    dropout: float = 0.0
    tie_embeddings: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RotaryScaling | None = None
    rope_interleaved: ClassVar[bool] = False

    def __post_init__(self):
        complete_llama_shape(self)
        check_flags(self, ("tie_embeddings",))


class Qwen2(Llama):
    """A Qwen2 language model; the arguments are Llama's."""

    model_type, display_name = "qwen2", "Qwen2"
    config_class = Qwen2Config

    transformers_class = "Qwen2ForCausalLM"
    fields = {ours: theirs for ours, theirs in LLAMA_FIELDS.items() if not ours.endswith("_bias")}
    nullable = frozenset({"num_key_value_heads"})
    defaults = {"rms_norm_eps": 1e-6, "num_key_value_heads": 32}
    gguf_name = "qwen2"
    gguf_moves_rows = gguf_zero_biases = False
    tokenizer_pattern = "qwen2"
    end_of_text = ("<|endoftext|>",)

    @staticmethod
    def has_bias(config, name):
        return name in BIASED

    @classmethod
    def extra_from_hugging_face(cls, contents):
        neutral = {
            "attention_bias": (True, False),
            **neutral_qwen_windows(contents),
        }  # the biases are those of every Qwen2
        check_llama_keys(contents, cls.fields, neutral)
        return rope_from_hugging_face(contents)

    @classmethod
    def extra_from_gguf(cls, file, fields):
        return cls.rope_from_gguf(file, fields)

    @classmethod
    def gguf_refusal(cls, config):
        if config.head_dim * config.n_head != config.d_model:
            return f"head_dim {config.head_dim}: llama.cpp takes the heads of a Qwen2 to be d_model / n_head wide"
        return None
