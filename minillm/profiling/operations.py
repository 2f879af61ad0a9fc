"""How many operations a training step has, by formula: the numerator of "model FLOP utilisation".

A weight of a matrix product meets every token once in forward, a multiplication and an addition: 2 operations. In backward it
takes part in two products, dx = dy w^T and dw = x^T dy, of 2 operations each. Kaplan et al., "Scaling Laws for Neural Language
Models" (2020), section 2.1, so count 6 N operations a token for N weights. Attention multiplies no weights, but q k^T and P v,
for each head 2 T D operations a token each in forward, and twice that in backward: 12 H D T a layer. Chowdhery et al., "PaLM"
(2022), appendix B, add it:

    operations a token = 6 N + 12 L H D T

N counts the weights that are multiplied: those of the blocks and the output head, tied or not, and no tables, biases and
norms. As in PaLM the attention is counted whole, though a causal one needs half of it, and what is computed twice (activation
checkpointing, the scores inside flash attention) is counted once: it is what the model needs, not what the device did. With a
sliding window T is the window, where the text is longer.
"""

from __future__ import annotations

from minillm.layers.linear import Linear
from minillm.profiling.memory_operations import model_of


def multiplied_weights(config) -> int:
    """N: the weights that take part in matrix products.

    >>> from minillm import GPT2Config
    >>> multiplied_weights(GPT2Config())
    123532032
    """
    return sum(layer.weight.value.size for _, layer in model_of(config).layers() if isinstance(layer, Linear))


def flops_per_token(config, time: int) -> int:
    """Operations that training on one token of a window of `time` tokens takes.

    >>> from minillm import GPT2Config
    >>> flops_per_token(GPT2Config(), 1024)
    854438400
    """
    width = config.n_head * getattr(config, "head_dim", config.d_model // config.n_head)  # H D
    windows = [layer.window for _, layer in model_of(config).layers() if getattr(layer, "window", None) is not None]
    return 6 * multiplied_weights(config) + 12 * config.n_layer * width * min([time, *windows])
