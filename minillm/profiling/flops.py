"""How many floating-point operations a pass has: those of its matrix products, a multiplication and
the addition after it counted as two.

That is how the field counts (Kaplan et al., "Scaling Laws for Neural Language Models", 2020,
section 2.1; Chowdhery et al., "PaLM", 2022, appendix B). Norms, activations, softmax and sums are
left out: they grow with T C and not with T C^2.

    linear      y = x W, N rows, W with I O weights: 2 N I O forward; dx and dw: 4 N I O backward
    attention   q k^T and P v, for each pair (query, key) of a head 2 D each: 4 D forward; dv, dP,
                dq and dk: 8 D backward

A frozen weight has no dw. Two counts are made of these:

    count_flops       one call of an operation, as `minillm inspect` shows it. Attention counts the
                      pairs that are seen: T (T + 1) / 2 for a causal head.
    flops_per_token   a training step, the numerator of "model FLOP utilisation". As in PaLM all
                      T pairs of a query count, though a causal head needs half of them:

                          flops per token = 6 (weights multiplied) + 12 H D T (layers)

What is computed twice (activation checkpointing, the scores inside flash attention) is counted
once: it is what the model needs, not what the device did.
"""

from __future__ import annotations

import inspect
import math

import numpy as np

from minillm.backend.arrays import to_host
from minillm.layers.linear import Linear
from minillm.profiling.memory_operations import model_of


def linear_flops(rows: int, weights: int, learns: bool = True) -> tuple[int, int]:
    """(forward, backward) of a product of N rows with a matrix of so many weights."""
    product = 2 * rows * weights
    return product, (1 + learns) * product


def attention_flops(pairs: int, head_dim: int) -> tuple[int, int]:
    """(forward, backward) of so many pairs of a query and a key, each of width D."""
    return 4 * pairs * head_dim, 8 * pairs * head_dim


# --------------------------------------------------------------------------------------------- a call of an operation


def count_flops(operation: str, arguments: inspect.BoundArguments, learns: bool = True) -> tuple[int, int]:
    """(forward, backward) for one call of `NAME_forward` with these arguments; (0, 0) for one
    without matrix products.

    learns: the weight is not frozen.
    """
    formula = FORMULAS.get(operation)
    return (0, 0) if formula is None else formula(learns=learns, **arguments.arguments)


def _linear(x, weight, learns, **others):
    """x (..., I), weight (I, O) or (O, I). With a loss: the logits, then dx and dweight."""
    return linear_flops(math.prod(x.shape[:-1]), weight.size, learns)


def _attention(q, causal=True, window=None, starts=None, **others):
    """q (B, H, T, D), starts (B, T)"""
    B, H, T, D = q.shape
    if starts is not None:
        i = np.arange(T)
        return attention_flops(H * int(np.minimum(i - to_host(starts) + 1, window or T).sum()), D)
    seen = sum(min(i + 1, window or T) for i in range(T)) if causal else T * T
    return attention_flops(B * H * seen, D)


def _lora(x, a, b, **others):
    """x (..., I), a (r, I), b (O, r): both matrices learn."""
    return linear_flops(math.prod(x.shape[:-1]), a.size + b.size)


FORMULAS = {
    "linear": _linear,
    "attention": _attention,
    "linear_cross_entropy": _linear,
    "sequence_log_probability": _linear,
    "lora": _lora,
}


# --------------------------------------------------------------------------------------------------- a training step


def multiplied_weights(config) -> int:
    """The weights that take part in matrix products: those of the blocks and of the output head,
    tied or not; no tables, biases and norms.

    >>> from minillm import GPT2Config
    >>> multiplied_weights(GPT2Config())
    123532032
    """
    return sum(layer.weight.value.size for _, layer in model_of(config).layers() if isinstance(layer, Linear))


def flops_per_token(config, time: int) -> int:
    """Operations of training on one token of a window of `time` tokens. Where the model has a
    sliding window that is shorter, a query has as many pairs as that.

    >>> from minillm import GPT2Config
    >>> flops_per_token(GPT2Config(), 1024)
    854438400
    """
    head_dim = getattr(config, "head_dim", config.d_model // config.n_head)
    windows = [layer.window for _, layer in model_of(config).layers() if getattr(layer, "window", None) is not None]
    pairs = config.n_layer * config.n_head * min([time, *windows])
    return sum(linear_flops(1, multiplied_weights(config))) + sum(attention_flops(pairs, head_dim))
