"""Residual: a layer adds to the stream of vectors instead of replacing it, so that gradients reach every depth.

Source: He et al., "Deep Residual Learning for Image Recognition" (2015); with the norm inside the branch as in GPT-2
("pre-norm"; Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020):

    y = x + branch(x)

Backward. A sum hands its gradient to both terms unchanged; x takes part twice, so its two gradients add up:

    dbranch = dy        dx = dy + (gradient that comes back through the branch)

The first term is why depth does not hurt: whatever the branch does, dy arrives below whole.
"""

from __future__ import annotations

from minillm.layers.attention import CausalSelfAttention
from minillm.layers.dropout import Dropout
from minillm.layers.layer import Layer
from minillm.layers.layer_norm import LayerNorm
from minillm.layers.mlp import MLP


def residual_forward(x, branch):
    """x and branch, the output of a layer that read x, both (..., C)  ->  y (..., C), saved (nothing)"""
    return x + branch, None


def residual_backward(dy, saved):
    """dy (..., C)  ->  dx (..., C) of the direct path, dbranch (..., C). Both are dy itself: not to be written to."""
    # forward: y = x + branch
    return dy, dy


class ResidualBlock(Layer):
    """One transformer block, x (B, T, C) -> y (B, T, C):

    x = x + dropout(attn(ln_1(x)))        tokens look at each other
    x = x + dropout(mlp(ln_2(x)))         each token thinks by itself
    """

    def __init__(self, ln_1: LayerNorm, attn: CausalSelfAttention, ln_2: LayerNorm, mlp: MLP, dropout: float = 0.0):
        self.ln_1 = ln_1
        self.attn = attn
        self.attn_resid_dropout = Dropout(dropout)
        self.ln_2 = ln_2
        self.mlp = mlp
        self.mlp_resid_dropout = Dropout(dropout)

    def forward(self, x, rng_key=None):
        attended = self.attn_resid_dropout.forward(self.attn.forward(self.ln_1.forward(x), rng_key), rng_key)
        x, saved_attn = residual_forward(x, attended)
        thought = self.mlp_resid_dropout.forward(self.mlp.forward(self.ln_2.forward(x)), rng_key)
        x, saved_mlp = residual_forward(x, thought)
        self.save_for_backward((saved_attn, saved_mlp))
        return x

    def backward(self, dy):
        saved_attn, saved_mlp = self.take_saved()
        # forward: x = x + dropout(mlp(ln_2(x)))
        dx, dthought = residual_backward(dy, saved_mlp)
        dx = dx + self.ln_2.backward(self.mlp.backward(self.mlp_resid_dropout.backward(dthought)))
        # forward: x = x + dropout(attn(ln_1(x)))
        dx, dattended = residual_backward(dx, saved_attn)
        return dx + self.ln_1.backward(self.attn.backward(self.attn_resid_dropout.backward(dattended)))
