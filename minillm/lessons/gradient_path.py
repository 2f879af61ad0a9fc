"""One gradient, followed by hand from the loss to a single weight: W_ij of the last block's first
MLP matrix.

The chain rule has two parts. Along a path, derivatives multiply. Where paths meet, they add: if a
number affects the loss through several others, its gradient is the sum over them. With dX =
dLoss/dX, for one token t, from the loss downwards:

    loss = -1/T sum_t log softmax(z_t)[target_t]       dz_v = (p_v - [v = target]) / T             fused_gradient.py
    z_v = sum_c y_c E_vc                               dy_c = sum_v dz_v E_vc                      a sum over V logits
    y_c = n_c g_c,  n_c = (x_c - mean) r               dx_c = r (dn_c - mean(dn) - n_c mean(dn n)),  dn = dy g
    x_c = ... + sum_j a_j P_jc                         da_j = sum_c dx_c P_jc                      a sum over C channels
    a_j = u_j gate(u_j)                                du_j = da_j (gate + u_j gate')              a product
    u_j = sum_i m_i W_ij                               dW_ij = sum_t m_ti du_tj                    a sum over T tokens

E is the token embedding, which is also the output head; g is the weight of the last norm, P the
MLP's second matrix, m the MLP's input. minillm/layers has the derivations. After the last block no
token sees another one, so each token has its own path. The paths meet in the weight, which all
tokens use.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.layers.gelu import gelu_backward, gelu_forward
from minillm.lessons import gpt_page


class Kept(NamedTuple):
    """What the forward pass saves along the path to W_ij, for one text of T tokens."""

    p: np.ndarray  # (T, V), the probabilities
    targets: np.ndarray  # (T,)
    embedding: np.ndarray  # E (V, C)
    norm: tuple[np.ndarray, np.ndarray, np.ndarray]  # n (T, C), r (T, 1), g (C,)
    down: np.ndarray  # P_j (C,)
    u: np.ndarray  # (T,)
    gate: np.ndarray  # (T,)
    m: np.ndarray  # m_i (T,)


def keep(weights, ids, targets, heads, i, j) -> Kept:
    """Run the forward pass of gpt_page.py for ids (1, T); returns what the path to W_ij needs."""
    logits, (_, blocks, _, norm) = gpt_page.forward(weights, ids, heads)
    *_, m, (u, gate), _ = blocks[-1]
    n, r, g = norm
    return Kept(
        p=gpt_page.softmax(logits[0]),
        targets=targets[0],
        embedding=weights["wte.weight"],
        norm=(n[0], r[0], g),
        down=weights[f"h.{len(blocks) - 1}.mlp.c_proj.weight"][j],
        u=u[0, :, j],
        gate=gate[0, :, j],
        m=m[0, :, i],
    )


# ------------------------------------------------------------------------------------------------ the rule of each edge


def to_logits(dloss, kept):
    # forward: loss = 1/T sum_t (log sum_v exp(z_v) - z_target)
    onehot = np.arange(kept.p.shape[1]) == kept.targets[:, None]
    return dloss * (kept.p - onehot) / len(kept.targets)  # (T, V)


def to_y(dz, kept):
    # forward: z_v = sum_c y_c E_vc
    return dz @ kept.embedding  # (T, V) @ (V, C)


def to_x(dy, kept):
    # forward: y_c = n_c g_c, n_c = (x_c - mean) r, mean and r functions of all x
    n, r, g = kept.norm
    dn = dy * g
    return r * (dn - dn.mean(axis=1, keepdims=True) - n * (dn * n).mean(axis=1, keepdims=True))  # (T, C)


def to_a(dx, kept):
    # forward: x_c = ... + sum_j a_j P_jc
    return dx @ kept.down  # (T, C) @ (C,)


def to_u(da, kept):
    # forward: a = u gate(u)
    return da * gelu_slope(kept)  # (T,)


def gelu_slope(kept):
    return gpt_page.gelu_backward(1.0, (kept.u, kept.gate))


def to_weight(du, kept):
    # forward: u_tj = sum_i m_ti W_ij, the same W_ij for every token
    return kept.m @ du  # (T,) @ (T,)


RULES = {"logits": to_logits, "y": to_y, "x": to_x, "a": to_a, "u": to_u, "weight": to_weight}


def follow(kept: Kept, rules=RULES) -> dict[str, np.ndarray]:
    """The gradients along the path, by name.

    Each rule takes the gradient before it; the first takes dloss = 1.
    """
    gradients, upstream = {}, 1.0
    for name, rule in rules.items():
        upstream = gradients[name] = rule(upstream, kept)
    return gradients


# ------------------------------------------------------------------------------------------------ mistakes, on purpose


def to_x_without_last_term(dy, kept):
    """Layer norm with r treated as a constant."""
    n, r, g = kept.norm
    dn = dy * g
    return r * (dn - dn.mean(axis=1, keepdims=True))


def to_u_exact(da, kept):
    """The slope of the exact GELU for a model that uses the tanh form: the curves differ by less
    than 5e-4.
    """
    slope, _ = gelu_backward(np.ones_like(kept.u), gelu_forward(kept.u, approximate="none")[1])
    return da * slope


def to_weight_from_last(du, kept):
    """The gradient of the last token alone, though all tokens use the weight."""
    return kept.m[-1] * du[-1]


FAULTS = {
    "last token only": {**RULES, "weight": to_weight_from_last},
    "layer norm lacks a term": {**RULES, "x": to_x_without_last_term},
    "GELU's other form": {**RULES, "u": to_u_exact},
}
