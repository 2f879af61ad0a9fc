"""A transformer block in fewer trips to memory, for arrays on a device with kernels.

The block's own forward computes, one after the other,

    x = x + dropout(attention(norm_1(x)))        y = x + dropout(mlp(norm_2(x)))

The same numbers, with what lies between two layers in one pass over memory. Attention and MLP leave
out the bias of their last projection, b_a and b_m; it is added with the residual:

    a = attention(norm_1(x))                s = x + (a + b_a), n = norm_2(s)            one pass
    m = mlp(n)                              y = s + (m + b_m)                           one pass

Backward. dy reaches s along the stream and through the MLP, ds reaches x along the stream and
through attention:

    db_m = sum over rows of dy              dn = (dy through the MLP)
    ds = dy + (dn through norm_2)           db_a = sum over rows of ds                  one pass
    dx = ds + (ds through attention and norm_1)             the sum in the pass of norm_1

The passes are residual_layer_norm.py, residual_rms_norm.py, residual_bias.py. Where dropout drops
values of a branch, its bias is added before, by the projection.

A block is fused only where this is what its own forward would compute: layers of these classes,
with the forward and the backward of their class, and the sum of residual.py. So a hook on a layer
sees what it sees without fusing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minillm.backend.arrays import contiguous
from minillm.kernels import dispatch, kernel_for
from minillm.layers.attention import CausalSelfAttention
from minillm.layers.dropout import Dropout
from minillm.layers.layer import Layer, Parameter
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.linear import Linear
from minillm.layers.lora import LoRALinear
from minillm.layers.mlp import MLP
from minillm.layers.residual import residual_backward, residual_forward
from minillm.layers.residual_bias import residual_bias_backward, residual_bias_forward
from minillm.layers.residual_layer_norm import layer_norm_of_sum, layer_norm_of_sum_backward
from minillm.layers.residual_rms_norm import rms_norm_of_sum, rms_norm_of_sum_backward
from minillm.layers.rms_norm import RMSNorm
from minillm.layers.rotary_attention import RotarySelfAttention
from minillm.layers.swiglu import SwiGLU

# A norm after a sum: the operation of its kernel, and the pair of functions.
OF_SUM = {
    LayerNorm: ("residual_layer_norm", layer_norm_of_sum, layer_norm_of_sum_backward),
    RMSNorm: ("residual_rms_norm", rms_norm_of_sum, rms_norm_of_sum_backward),
}
CLASSES = (LayerNorm, RMSNorm, CausalSelfAttention, RotarySelfAttention, MLP, SwiGLU, Linear, LoRALinear, Dropout)
# The functions that a fused block takes for granted.
RESIDUAL = residual_forward, residual_backward
METHODS = {(kind, name): getattr(kind, name) for kind in CLASSES for name in ("forward", "backward")}


class BlockParts(NamedTuple):
    """The layers of a block in the order of its forward, and what it calls beside them.

    dropouts: of the two branches, or None. residual: the functions of residual.py as the block's
    file has them.
    """

    norm_1: LayerNorm | RMSNorm
    attention: CausalSelfAttention | RotarySelfAttention
    norm_2: LayerNorm | RMSNorm
    mlp: MLP | SwiGLU
    residual: tuple
    dropouts: tuple[Dropout | None, Dropout | None] = (None, None)


class FusedBlockSaved(NamedTuple):
    """What backward needs of forward, beyond what the layers keep."""

    parts: BlockParts
    biases: tuple[Parameter | None, Parameter | None]  # that were left out of attention and MLP
    norm_of_sum_backward: Any
    residual_backward: Any
    residual: Any


def fuses(parts: BlockParts, x) -> bool:
    """Whether the block is computed in fewer passes: x is on a device with the kernels, and the
    layers are those of this package, as they are.
    """
    norm_1, attention, norm_2, mlp, residual, dropouts = parts
    if type(norm_1) not in OF_SUM or type(norm_2) not in OF_SUM or residual != RESIDUAL:
        return False
    operation, _, _ = OF_SUM[type(norm_2)]
    if kernel_for(operation, x) is None or kernel_for("residual_bias", x) is None:
        return False
    if not all(map(_is_plain, (norm_1, attention, norm_2, mlp, *filter(None, dropouts)))):
        return False
    return _is_plain(attention.projection) and _is_plain(mlp.projection)


def fused_block_forward(parts: BlockParts, x, rng_key=None, starts=None):
    """x (B, T, C)  ->  y (B, T, C), saved. rng_key: of the step, for dropout in training mode.
    starts (B, T): of packed documents.
    """
    norm_1, attention, norm_2, mlp, _, dropouts = parts
    _, norm_of_sum, norm_of_sum_backward = OF_SUM[type(norm_2)]
    forward, backward = dispatch(x, residual_bias_forward, residual_bias_backward)
    a, bias_a = _branch(attention, norm_1.forward(x), dropouts[0], rng_key, starts)
    s, n = norm_of_sum(norm_2, x, a, _value(bias_a))
    del a  # its memory is free for the MLP
    m, bias_m = _branch(mlp, n, dropouts[1], rng_key)
    y, saved = forward(s, m, _value(bias_m))
    return y, FusedBlockSaved(parts, (bias_a, bias_m), norm_of_sum_backward, backward, saved)


def fused_block_backward(dy, saved):
    """dy (B, T, C)  ->  dx (B, T, C); adds to the gradients of the block's parameters."""
    parts, (bias_a, bias_m), norm_of_sum_backward, residual_bias_backward, saved = saved
    norm_1, attention, norm_2, mlp, _, dropouts = parts
    # forward: y, saved = forward(s, m, _value(bias_m)): y = s + (m + b_m)
    dy, dm, dbias_m = residual_bias_backward(dy, saved)
    _add_grad(bias_m, dbias_m)
    # forward: m, bias_m = _branch(mlp, n, dropouts[1], rng_key)
    # forward: s, n = norm_of_sum(norm_2, x, a, _value(bias_a)): s = x + (a + b_a), n = norm_2(s)
    ds, dbias_a = norm_of_sum_backward(norm_2, dy, _branch_backward(mlp, dm, dropouts[1]))
    _add_grad(bias_a, dbias_a)
    # forward: a, bias_a = _branch(attention, norm_1.forward(x), dropouts[0], rng_key, starts)
    # forward: s, n = norm_of_sum(norm_2, x, a, _value(bias_a)): x goes along the stream, too
    return norm_1.backward(_branch_backward(attention, ds, dropouts[0]), ds)


def _branch(layer, x, dropout, rng_key, starts=None):
    """dropout(layer(x)), and the bias that was left out of it: None where there is none, or values
    are dropped after it was added.
    """
    drops = dropout is not None and dropout.training and dropout.p > 0
    arguments = () if isinstance(layer, (MLP, SwiGLU)) else (rng_key, starts)
    y = layer.forward(x, *arguments, with_bias=drops)
    if dropout is not None:
        y = dropout.forward(y, rng_key)
    return y, None if drops else getattr(layer.projection, "bias", None)


def _branch_backward(layer, dy, dropout):
    # forward: y = dropout.forward(y, rng_key)
    if dropout is not None:
        dy = dropout.backward(dy)
    # forward: y = layer.forward(x, *arguments, with_bias=drops)
    return layer.backward(dy)


def _value(bias: Parameter | None):
    return None if bias is None else contiguous(bias.value)


def _add_grad(bias: Parameter | None, dbias) -> None:
    if bias is not None:
        bias.add_grad(dbias)


def _is_plain(layer: Layer) -> bool:
    """Whether forward and backward are those of a class of this file, also where their time is
    taken.
    """
    for name in ("forward", "backward"):
        own = vars(layer).get(name)
        if own is not None and not getattr(own, "only_takes_time", False):
            return False
        if METHODS.get((type(layer), name)) is not getattr(type(layer), name):
            return False
    return True
