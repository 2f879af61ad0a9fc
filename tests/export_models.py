"""Small models of every architecture in the shapes that their files may have, for the tests of export."""

from dataclasses import replace

import minillm
from minillm.checks.cases import randomised
from minillm.layers.rotary_scaling import LinearScaling, Llama3Scaling, LongRopeScaling, TableScaling, YarnScaling

SHAPE = dict(vocab_size=300, context_length=32, n_layer=2, n_head=4, d_model=64, d_ff=96)
LLAMA = minillm.LlamaConfig(**SHAPE, n_kv_head=2, rope_theta=500.0)
LLAMA3 = Llama3Scaling(4.0, 1.0, 4.0, 16)
CONFIGS = {
    "gpt2": minillm.GPT2Config(**SHAPE),
    "gpt2 without biases": minillm.GPT2Config(**SHAPE, bias=False),
    "gpt2 with a head of its own": minillm.GPT2Config(**SHAPE, tie_embeddings=False, layer_norm_eps=1e-3),
    "llama": LLAMA,
    "llama tied": replace(LLAMA, tie_embeddings=True),
    "llama with biases": replace(LLAMA, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3),
    "llama with wide heads": replace(LLAMA, head_dim=32),
    "llama 3.1": replace(LLAMA, rope_scaling=LLAMA3),
    "llama stretched": replace(LLAMA, rope_scaling=LinearScaling(4.0)),
    "llama with factors": replace(LLAMA, rope_scaling=TableScaling((1.0, 1.5, 1.0, 2.0, 8.0, 3.0, 4.0, 7.0))),
    "llama by yarn": replace(LLAMA, rope_scaling=YarnScaling(2.0, 16)),
    "llama by longrope": replace(
        LLAMA,
        rope_scaling=LongRopeScaling(
            (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7),
            (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
            512,
            attention_factor=1.0,
        ),
    ),
    "qwen2 by yarn": minillm.Qwen2Config(**SHAPE, n_kv_head=2, rope_scaling=YarnScaling(4.0, 16)),
    "qwen2": minillm.Qwen2Config(**SHAPE, n_kv_head=2, rope_theta=1e6),
    "qwen3": minillm.Qwen3Config(**SHAPE, n_kv_head=2, head_dim=32, tie_embeddings=True),
    "mistral": minillm.MistralConfig(**SHAPE, n_kv_head=2, sliding_window=8),
}
ROUNDED = ("gpt2", "llama", "qwen3")  # of every kind of matrix, for tests of how numbers are stored


def make(name):
    """A model whose every parameter, norms and biases too, is random; in evaluation mode."""
    config = CONFIGS[name]
    return randomised(minillm.models.architectures.make_model(config, seed=1), 0.2).eval()
