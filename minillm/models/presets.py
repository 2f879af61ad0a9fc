"""Named sets of settings for `minillm train --preset NAME`.

`default` has what learned most in a minute on two cores (benchmarks/minute.py).
`shakespeare-char-cpu` and `shakespeare-char` have the settings of the two runs that nanoGPT
publishes for tiny shakespeare (its README and config/train_shakespeare_char.py). The sizes of
`gpt2` and its siblings are those of Radford et al. (2019), table 2, with the training settings of
nanoGPT's reproduction (config/train_gpt2.py); they want a GPU. The shapes of `smollm2-135m`,
`tinyllama` and `llama-3.2-1b` are those of the published config.json files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from minillm.errors import UserError

CHARACTERS = 65  # in tiny shakespeare


@dataclass(frozen=True)
class Preset:
    """A line on what it is for, the fields of the model's configuration and training settings.

    The tokenizer decides the vocabulary; vocab_size is the usual one, for `minillm info --model`.
    """

    summary: str
    architecture: str = "gpt2"
    model: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    vocab_size: int = CHARACTERS


def _gpt2(parameters: str, n_layer: int, n_head: int, d_model: int) -> Preset:
    return Preset(
        f"GPT-2 with {parameters} parameters; wants a GPU",
        "gpt2",
        model=dict(n_layer=n_layer, n_head=n_head, d_model=d_model, context_length=1024, dropout=0.0, bias=True),
        training=dict(
            batch_size=12,
            gradient_accumulation=40,
            max_steps=600_000,
            lr=6e-4,
            min_lr=6e-5,
            warmup_steps=2000,
            beta2=0.95,
            eval_interval=1000,
        ),
        vocab_size=50257,
    )


def _llama(parameters: str, vocab_size: int, **model) -> Preset:
    training = dict(batch_size=8, gradient_accumulation=32, max_steps=100_000, lr=4e-4, min_lr=4e-5, beta2=0.95)
    return Preset(f"Llama with {parameters} parameters; wants a GPU", "llama", model, training, vocab_size)


def _small(name: str, architecture: str, **model) -> Preset:
    shape = dict(n_layer=4, n_head=4, n_kv_head=2, d_model=128, d_ff=352, context_length=64)
    return Preset(
        f"a small {name} on tiny shakespeare's characters; about a minute on two CPU cores",
        architecture,
        model={**shape, "dropout": 0.0, "tie_embeddings": True, **model},
        training=dict(
            data=("shakespeare",),
            batch_size=16,
            max_steps=1200,
            lr=3e-3,
            min_lr=3e-4,
            warmup_steps=100,
            eval_interval=200,
        ),
    )


PRESETS = {
    "default": Preset(
        "a GPT on byte pairs that trains in about a minute on two CPU cores",
        model=dict(n_layer=3, n_head=4, d_model=128, context_length=64, dropout=0.0, bias=False),
        training=dict(
            tokenizer="bpe",
            batch_size=8,
            max_steps=1900,
            optimizer="muon",
            lr=0.03,
            min_lr=0.0,
            adamw_lr=8e-3,
            schedule="linear",
            warmup_steps=20,
            beta2=0.95,
            weight_decay=0.2,
            eval_interval=200,
            sample_tokens=60,
        ),
        vocab_size=1024,
    ),
    "shakespeare-char-cpu": Preset(
        "nanoGPT's published CPU run: tiny shakespeare, 0.8 M parameters, 2,000 steps",
        model=dict(n_layer=4, n_head=4, d_model=128, context_length=64, dropout=0.0, bias=False),
        training=dict(
            data=("shakespeare",),
            batch_size=12,
            max_steps=2000,
            lr=1e-3,
            min_lr=1e-4,
            warmup_steps=100,
            beta2=0.99,
            eval_interval=250,
        ),
    ),
    "shakespeare-char": Preset(
        "nanoGPT's published GPU run: tiny shakespeare, 10.7 M parameters, 5,000 steps",
        model=dict(n_layer=6, n_head=6, d_model=384, context_length=256, dropout=0.2, bias=False),
        training=dict(
            data=("shakespeare",),
            batch_size=64,
            max_steps=5000,
            lr=1e-3,
            min_lr=1e-4,
            warmup_steps=100,
            beta2=0.99,
            eval_interval=250,
        ),
    ),
    "llama-small": _small("Llama", "llama"),
    "qwen2-small": _small("Qwen2", "qwen2"),
    "qwen3-small": _small("Qwen3", "qwen3", head_dim=32),
    "mistral-small": _small("Mistral with a window of 16 tokens", "mistral", sliding_window=16),
    "smollm2-135m": _llama(
        "135 M",
        vocab_size=49152,
        n_layer=30,
        n_head=9,
        n_kv_head=3,
        d_model=576,
        d_ff=1536,
        context_length=8192,
        rope_theta=100_000.0,
        tie_embeddings=True,
    ),
    "tinyllama": _llama(
        "1.1 B",
        vocab_size=32000,
        n_layer=22,
        n_head=32,
        n_kv_head=4,
        d_model=2048,
        d_ff=5632,
        context_length=2048,
        tie_embeddings=False,
    ),
    "llama-3.2-1b": _llama(
        "1.2 B",
        vocab_size=128256,
        n_layer=16,
        n_head=32,
        n_kv_head=8,
        d_model=2048,
        d_ff=8192,
        context_length=131_072,
        rope_theta=500_000.0,
        rope_scaling=dict(
            factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
        ),
        tie_embeddings=True,
    ),
    "simulator": Preset(
        "a tiny GPT for --device cudasim: 20 steps on simulated CUDA kernels, a second each or less",
        model=dict(n_layer=1, n_head=1, d_model=32, context_length=32, dropout=0.0, bias=True),
        training=dict(
            batch_size=4,
            max_steps=20,
            lr=1e-2,
            min_lr=1e-3,
            warmup_steps=2,
            eval_interval=20,
            eval_windows=4,
            sample_tokens=20,
        ),
    ),
    "fine-tune": Preset(
        "a gentle continuation of the model that --init names",
        training=dict(
            batch_size=8,
            max_steps=400,
            lr=3e-4,
            min_lr=3e-5,
            warmup_steps=20,
            weight_decay=0.01,
            eval_interval=100,
            eval_windows=50,
        ),
    ),
    "preferences": Preset(
        "a still gentler change of the model that --init names, by --preference-data",
        training=dict(
            batch_size=8,
            max_steps=200,
            lr=1e-5,
            min_lr=1e-6,
            warmup_steps=20,
            weight_decay=0.0,
            eval_interval=50,
            eval_windows=50,
        ),
    ),
    "gpt2": _gpt2("124 M", n_layer=12, n_head=12, d_model=768),
    "gpt2-medium": _gpt2("355 M", n_layer=24, n_head=16, d_model=1024),
    "gpt2-large": _gpt2("774 M", n_layer=36, n_head=20, d_model=1280),
    "gpt2-xl": _gpt2("1558 M", n_layer=48, n_head=25, d_model=1600),
}


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises UserError, with the names there are, for any other."""
    if name not in PRESETS:
        raise UserError(f'unknown preset "{name}": use one of {", ".join(PRESETS)}')
    return PRESETS[name]
