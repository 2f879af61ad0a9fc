"""Qwen3: Llama with an RMS norm over each head's channels, on queries and keys, before they are
rotated.

Source: Yang et al., "Qwen3 Technical Report" (2025), section 2; Dehghani et al., "Scaling Vision
Transformers to 22 Billion Parameters" (2023), section 2, from which the norms come. For each head,
with width D:

    q = rotate(q_norm(x W_q^T))        k = rotate(k_norm(x W_k^T))        one weight (D,) each, for all heads

They keep the scores q k / sqrt(D) small however large the weights grow. The width of a head is
independent of d_model / n_head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention
from minillm.layers.rotary_scaling import RotaryScaling
from minillm.models.architecture import gguf_has_bias
from minillm.models.config import check_flags
from minillm.models.llama import Llama, complete_llama_shape
from minillm.models.llama_names import LLAMA_FIELDS, LLAMA_NAMES, check_llama_keys, neutral_qwen_windows
from minillm.models.rope_names import rope_from_hugging_face


@dataclass(frozen=True)
class Qwen3Config:
    """The shape of a Qwen3. Raises UserError for a shape that cannot be built.

    The fields are those of LlamaConfig, which explains them; head_dim is 128 if None, as in every
    published Qwen3.
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
    attention_bias: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RotaryScaling | None = None
    mlp_bias: ClassVar[bool] = False
    rope_interleaved: ClassVar[bool] = False

    def __post_init__(self):
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", 128)
        complete_llama_shape(self)
        check_flags(self, ("tie_embeddings", "attention_bias"))


class Qwen3(Llama):
    """A Qwen3 language model; the arguments are Llama's."""

    model_type, display_name = "qwen3", "Qwen3"
    config_class = Qwen3Config

    names = LLAMA_NAMES | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
    transformers_class = "Qwen3ForCausalLM"
    fields = {ours: theirs for ours, theirs in LLAMA_FIELDS.items() if ours != "mlp_bias"}
    nullable = frozenset({"num_key_value_heads"})
    defaults = {"rms_norm_eps": 1e-6, "num_key_value_heads": 32}
    gguf_name = "qwen3"
    gguf_moves_rows = gguf_zero_biases = False
    tokenizer_pattern = "qwen2"
    end_of_text = ("<|endoftext|>",)

    def _make_attention(self, path: str, positions: RotaryPositions) -> RotarySelfAttention:
        q_norm, k_norm = (self._make_norm(self.config.head_dim) for _ in "qk")
        return super()._make_attention(path, positions, q_norm=q_norm, k_norm=k_norm)

    def share(self, sharing) -> None:
        super().share(sharing)
        for block in self.model.blocks:
            sharing.head_norms(block.self_attn, "q_norm", "k_norm")

    @classmethod
    def extra_from_hugging_face(cls, contents):
        check_llama_keys(contents, cls.fields, neutral_qwen_windows(contents))
        return rope_from_hugging_face(contents)

    @classmethod
    def extra_from_gguf(cls, file, fields):
        return {"attention_bias": gguf_has_bias(file, "attn_(q|k|v|output)"), **cls.rope_from_gguf(file, fields)}

    @classmethod
    def gguf_refusal(cls, config):
        if config.attention_bias:
            return "attention_bias: llama.cpp computes Qwen3 without a bias on the output of attention"
        return None
