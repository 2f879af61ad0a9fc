"""Mistral: Llama with a sliding window.

In every layer a token sees the last `sliding_window` tokens, itself included.

Source: Jiang et al., "Mistral 7B" (2023), section 2; the window is that of Beltagy et al.,
"Longformer" (2020), made causal.

    S_ij = -inf where j > i or j <= i - W

What a token knows of tokens further back comes through the layers: after k of them it depends on
the last k (W - 1) + 1 tokens. The cache of generation keeps W columns, however long the text is.
Without a window, sliding_window None, it is a Llama without biases; so are the later ones, Mistral
7B v0.2 and Nemo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minillm.layers.rotary_attention import RotaryPositions, RotarySelfAttention
from minillm.layers.rotary_scaling import RotaryScaling
from minillm.models.architecture import GGUFKey
from minillm.models.config import check_flags, check_positive_integers, option
from minillm.models.llama import Llama, complete_llama_shape
from minillm.models.llama_names import FULL, LLAMA_FIELDS, LLAMA_GGUF_KEYS, SLIDING, all_layers_are, check_llama_keys
from minillm.models.rope_names import rope_from_hugging_face


@dataclass(frozen=True)
class MistralConfig:
    """The shape of a Mistral. Raises UserError for a shape that cannot be built.

    sliding_window: how many tokens a token sees, itself included, or None for all. The other fields
    are those of LlamaConfig, which explains them.
    """

    vocab_size: int = 32000
    context_length: int = 32768
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int | None = None
    d_model: int = 768
    d_ff: int | None = None
    head_dim: int | None = None
    dropout: float = 0.0
    tie_embeddings: bool = False
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RotaryScaling | None = None
    sliding_window: int | None = option(None, "Mistral: tokens that a layer looks back on, if not the whole text.")
    attention_bias: ClassVar[bool] = False
    mlp_bias: ClassVar[bool] = False
    rope_interleaved: ClassVar[bool] = False

    def __post_init__(self):
        complete_llama_shape(self)
        check_flags(self, ("tie_embeddings",))
        if self.sliding_window is not None:
            check_positive_integers(self, ("sliding_window",))


class Mistral(Llama):
    """A Mistral language model; the arguments are Llama's."""

    model_type, display_name = "mistral", "Mistral"
    config_class = MistralConfig

    transformers_class = "MistralForCausalLM"
    fields = {ours: theirs for ours, theirs in LLAMA_FIELDS.items() if not ours.endswith("_bias")}
    fields |= {"sliding_window": "sliding_window"}
    nullable = frozenset({"num_key_value_heads", "sliding_window"})
    defaults = {"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096}
    gguf_keys = LLAMA_GGUF_KEYS | {"attention.sliding_window": GGUFKey("sliding_window", int, None)}
    end_of_text = ("</s>",)

    def _make_attention(self, path: str, positions: RotaryPositions) -> RotarySelfAttention:
        return super()._make_attention(path, positions, window=self.config.sliding_window)

    @classmethod
    def extra_from_hugging_face(cls, contents):
        kind = FULL if cls._value(contents, "sliding_window") is None else SLIDING
        layer_types = (contents.get("layer_types"),) if all_layers_are(kind, contents) else ()
        check_llama_keys(contents, cls.fields, {"layer_types": layer_types})
        return rope_from_hugging_face(contents)

    @classmethod
    def extra_from_gguf(cls, file, fields):
        return cls.rope_from_gguf(file, fields)

    @classmethod
    def gguf_note(cls, config):
        if config.sliding_window is None or config.sliding_window >= config.context_length:
            return None
        return (
            f"llama.cpp knows no sliding window in files of Mistral: beyond {config.sliding_window} tokens it computes "
            "another text than minillm, which reads the window from the file"
        )
