"""Lesson: attention, forward and backward.

Forward, a head moves information from the tokens that came before (minillm/layers/attention.py has
the derivation):

    S_ij = q_i . k_j / sqrt(D)    P = softmax over j of S    y_i = sum_j P_ij v_j

Backward, the gradient of the loss leaves a head in two ways. One goes to the values, by the same
weights P as forward:

    dv_j = sum_i P_ij dy_i        token i sends P_ij dy_i back to token j; its size is P_ij |dy_i|

The other goes to the scores, and says where the head should have looked:

    dS_ij = P_ij (dP_ij - sum_k P_ik dP_ik),  dP_ij = dy_i . v_j

Where dS_ij is negative, the loss would fall if token i looked more at token j. Each row of dS has
the sum 0, because the attention given to one token is taken from others. And dS_ij is small where
P_ij is small: a head learns little about the tokens that it does not look at.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minillm.checks.gradcheck import finite_differences
from minillm.data.corpora import load_text, split_text
from minillm.errors import UserError
from minillm.layers.softmax import softmax_backward, softmax_forward
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import CORPUS, small_model
from minillm.pretrained import from_pretrained

WINDOWS = 32  # of the validation text, as long as the model's context
PAIRS = 6  # pairs of each layer, those with the largest gradients, are checked by finite differences
FEWEST = 4  # tokens in a sentence


class Heads(NamedTuple):
    """The heads of a layer in one pass, forward and backward: B texts, H heads, T tokens, head
    width D.
    """

    p: np.ndarray  # (B, H, T, T): how much token i looks at token j
    dy: np.ndarray  # (B, H, T, D): the gradient of the heads' outputs
    ds: np.ndarray  # (B, H, T, T): of the scores
    dq: np.ndarray  # (B, H, T, D): dq, dk, dv are the engine's
    dk: np.ndarray
    dv: np.ndarray
    disagreement: float  # relative difference of the engine's dq and dv and those computed from p and ds

    @property
    def sent_back(self) -> np.ndarray:
        """P_ij |dy_i|, (B, H, T, T): the size of the gradient that token i sends to the value of
        token j.
        """
        return self.p * np.linalg.norm(self.dy, axis=-1)[..., None]


def measure(sentence: str) -> Measured:
    """Attention and gradients of the heads for a sentence, and averages over a longer text."""
    _, tokenizer, _, folder = small_model()
    model = from_pretrained(folder, "float64").train()
    own = np.array([tokenizer.encode(sentence)])
    if own.shape[1] < FEWEST:
        raise UserError(f'"{sentence}" is too short: attention shows something from {FEWEST} tokens on')
    layers = look(model, own[:, :-1], own[:, 1:])
    figures = _exactness(model, own, layers)

    ids = np.array(tokenizer.encode(split_text(load_text([CORPUS]))[1]))
    context = model.config.context_length
    starts = np.linspace(0, len(ids) - context - 1, WINDOWS).astype(int)
    windows = np.array([ids[start : start + context + 1] for start in starts])
    on_text = look(model, windows[:, :-1], windows[:, 1:])
    for layer, heads in enumerate(on_text):
        for head in range(model.config.n_head):
            for name, value in habits(heads, head).items():
                figures[f"{name}, layer {layer}, head {head}"] = value
    nearest = int(np.argmax([figures[f"before, layer 0, head {head}"] for head in range(model.config.n_head)]))
    words = [tokenizer.decode([token]) for token in own[0, :-1]]
    shown = [(0, nearest), (len(layers) - 1, _most_pointed(layers[-1]))]
    return Measured(
        tables=[_habits_table(figures, model.config), _pairs_table(sentence, layers, shown, words)],
        findings=_findings(figures, model.config, nearest),
        draw=lambda figure: _draw(figure, sentence, layers, shown, words),
        figures=figures,
    )


def look(model, ids, targets) -> list[Heads]:
    """One forward and backward pass; returns the heads of every layer.

    The model must be in training mode, because q, k and v are saved for backward only then.
    """
    seen = []
    model.loss(ids, targets)
    for block in model.transformer.h:
        backward, saved = block.attn.take_saved()
        block.attn.save_for_backward((_recording(backward, seen), saved))
    model.backward()
    model.zero_grad()
    return seen[::-1]  # backward runs through the last layer first


def _recording(backward, seen: list):
    """attention_backward that also appends its inputs and results to `seen`."""

    def recording_backward(dy, saved, out=None):
        dq, dk, dv = backward(dy, saved, out)
        q, k, v = saved.q, saved.k, saved.v
        p = causal_attention(scores(q, k))
        # forward: y = p @ v, p = softmax(s), s = q @ k^T / sqrt(D)
        ds = softmax_backward(dy @ v.transpose(0, 1, 3, 2), p)  # (B, H, T, D) @ (B, H, D, T)
        own_dq, own_dv = ds @ k / math.sqrt(k.shape[-1]), p.transpose(0, 1, 3, 2) @ dy
        disagreement = max(np.abs(own_dq - dq).max() / np.abs(dq).max(), np.abs(own_dv - dv).max() / np.abs(dv).max())
        seen.append(Heads(p, dy, ds, dq, dk, dv, float(disagreement)))
        return dq, dk, dv

    return recording_backward


def scores(q, k):
    """q and k (B, H, T, D)  ->  S (B, H, T, T)"""
    return q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])


def causal_attention(s):
    """Scores (B, H, T, T)  ->  P (B, H, T, T): causal softmax over the last axis.

    >>> causal_attention(np.log(np.array([[[[1.0, 5.0], [1.0, 3.0]]]])))[0, 0].round(2)
    array([[1.  , 0.  ],
           [0.25, 0.75]])
    """
    return softmax_forward(np.where(np.tri(s.shape[-1], dtype=bool), s, -np.inf))[0]


def habits(heads: Heads, head: int) -> dict[str, float]:
    """What a head does on average over texts.

    itself, before: attention to the token itself, and to the token before it. nearness: `before` as
    a multiple of uniform attention, which is 1 / (i + 1) for each of the tokens 0 ... i. distance:
    how many tokens back it looks. to q, k, v: shares of the gradient that leaves the head.
    agreement: the correlation, over tokens, of log(attention received) and log(|dv|), both divided
    by the attention that a uniform head would give, because early tokens are visible to more
    tokens.
    """
    p = heads.p[:, head]  # (B, T, T)
    i = np.arange(p.shape[-1])
    equal = np.tri(len(i)) / (i[:, None] + 1)  # (T, T)
    received = p.sum(axis=1) / equal.sum(axis=0)  # (B, T)
    gradient = np.linalg.norm(heads.dv[:, head], axis=-1) / equal.sum(axis=0)
    out = [float(np.linalg.norm(gradient[:, head])) for gradient in (heads.dq, heads.dk, heads.dv)]
    return {
        "itself": float(p[:, i, i].mean()),
        "before": float(p[:, i[1:], i[:-1]].mean()),
        "nearness": float(p[:, i[1:], i[:-1]].mean() / equal[i[1:], i[:-1]].mean()),
        "distance": float((p * (i[:, None] - i)).sum(axis=-1).mean()),
        "agreement": float(np.corrcoef(np.log(received).ravel(), np.log(gradient).ravel())[0, 1]),
        **{f"to {name}": norm / sum(out) for name, norm in zip("qkv", out)},
    }


def _exactness(model, own, layers: list[Heads]) -> dict[str, float]:
    """The errors of the sentence's numbers."""
    ahead = max(float(np.triu(heads.p, 1).max()) for heads in layers)
    rows = max(float(np.abs(heads.p.sum(axis=-1) - 1).max()) for heads in layers)
    sums = max(float(np.abs(heads.ds.sum(axis=-1)).max() / np.abs(heads.ds).max()) for heads in layers)
    tried = 0.0
    for index, heads in enumerate(layers):
        pairs = np.unravel_index(np.argsort(-np.abs(heads.ds), axis=None)[:PAIRS], heads.ds.shape)
        tried = max(tried, _error_of(heads.ds[pairs], model, own, index, pairs))
    disagreement = max(heads.disagreement for heads in layers)
    return {"ahead": ahead, "row error": rows, "sum of ds": sums, "finite differences": tried, "engine": disagreement}


def _error_of(ds, model, own, index: int, pairs) -> float:
    """The largest relative error of gradients (N,) of scores, against finite differences of the
    loss.
    """
    change = np.zeros(len(ds))

    def loss() -> float:
        return loss_with_other_scores(model, own[:, :-1], own[:, 1:], index, pairs, change)

    tried = finite_differences(loss, change)
    return float((np.abs(tried - ds) / np.abs(tried)).max())


def loss_with_other_scores(model, ids, targets, index: int, pairs, change) -> float:
    """The model's loss with `change` (N,) added to the scores at `pairs` (b, h, i, j) of layer
    `index`.
    """
    body = model.transformer
    x = body.wte.forward(ids) + body.wpe.forward(np.arange(ids.shape[1]))  # (B, T, C)
    for layer, block in enumerate(body.h):
        a = block.ln_1.forward(x)
        if layer == index:
            q, k, v = split_qkv(block.attn.c_attn.forward(a), block.attn.n_head)
            s = scores(q, k)
            s[pairs] += change
            y = causal_attention(s) @ v  # (B, H, T, T) @ (B, H, T, D)
            x = x + block.attn.c_proj.forward(y.transpose(0, 2, 1, 3).reshape(x.shape))
        else:
            x = x + block.attn.forward(a)
        x = x + block.mlp.forward(block.ln_2.forward(x))
    return float(model.loss_head.forward(body.ln_f.forward(x), targets))


def split_qkv(qkv, n_head: int):
    """(B, T, 3C)  ->  q, k, v (B, H, T, D) each"""
    B, T, C3 = qkv.shape
    return qkv.reshape(B, T, 3, n_head, C3 // (3 * n_head)).transpose(2, 0, 3, 1, 4)


def _findings(figures: dict[str, float], config, nearest: int) -> list[Finding]:
    def of(name: str, layer: int) -> list[float]:
        return [figures[f"{name}, layer {layer}, head {head}"] for head in range(config.n_head)]

    last, times = config.n_layer - 1, of("nearness", 0)[nearest]
    agreement = min(min(of("agreement", layer)) for layer in range(config.n_layer))
    ahead, rows, sums = figures["ahead"], figures["row error"], figures["sum of ds"]
    return [
        Finding(
            f"no token attends to a later one (largest P: {ahead:g}), and each row of P adds up to 1 (error "
            f"{rows:.1e})",
            ahead == 0 and rows < 1e-12,
        ),
        Finding(
            f"the first layer looks near: head {nearest} gives the token before {of('before', 0)[nearest]:.0%}, "
            f"{times:.1f} times a uniform share, and its heads look {min(of('distance', 0)):.1f} to "
            f"{max(of('distance', 0)):.1f} tokens back; those of the last one {min(of('distance', last)):.1f} to "
            f"{max(of('distance', last)):.1f}",
            times > 1.7 and max(of("distance", 0)) < min(of("distance", last)),
        ),
        Finding(
            f"tokens that get more attention get more of the gradient: correlation at least {agreement:.2f} in all "
            "heads",
            agreement > 0.6,
        ),
        Finding(
            f"attention can only be moved: each row of the scores' gradients adds up to 0 (error {sums:.1e}), and they "
            f"agree with finite differences (error {figures['finite differences']:.1e})",
            sums < 1e-12 and figures["finite differences"] < 1e-6 and figures["engine"] < 1e-9,
        ),
    ]


def _habits_table(figures: dict[str, float], config) -> Table:
    rows = []
    for layer in range(config.n_layer):
        for head in range(config.n_head):
            itself, before, distance, q, k, v = (
                figures[f"{name}, layer {layer}, head {head}"]
                for name in ("itself", "before", "distance", "to q", "to k", "to v")
            )
            rows.append(
                (
                    f"{layer}.{head}",
                    f"{itself:.0%}",
                    f"{before:.0%}",
                    f"{distance:.1f}",
                    f"{q:.0%}",
                    f"{k:.0%}",
                    f"{v:.0%}",
                )
            )
    columns = ("layer.head", "looks at itself", "at the token before", "tokens back", "gradient to q", "to k", "to v")
    return Table(f"On average over {WINDOWS} windows of the validation text", columns, rows)


def _pairs_table(sentence: str, layers: list[Heads], shown, words: list[str]) -> Table:
    """For each head in the picture: the pair with the most attention, and those that should have
    more and less.
    """
    rows = []
    for layer, head in shown:
        p, ds = layers[layer].p[0, head], layers[layer].ds[0, head]
        others = np.tril(p, -1)  # attention to other tokens
        pairs = [np.unravel_index(place, p.shape) for place in (others.argmax(), ds.argmin(), ds.argmax())]
        rows.append((f"{layer}.{head}", *(f"{words[i]!r} to {words[j]!r}" for i, j in pairs)))
    columns = ("layer.head", "most attention", "should be more", "should be less")
    return Table(f'In "{sentence}": attention from one token to another', columns, rows)


def _most_pointed(heads: Heads) -> int:
    """The head that gives most attention to single other tokens."""
    return int(np.tril(heads.p[0], -1).max(axis=-1).mean(axis=-1).argmax())


def _draw(figure, sentence: str, layers: list[Heads], shown, words: list[str]) -> None:
    figure.set_size_inches(13, 8.5)
    figure.suptitle(f'Attention in "{sentence}"'.replace("$", r"\$"))
    axes = figure.subplots(len(shown), 3)
    places = np.arange(len(words))
    labels = [repr(word)[1:-1].replace(" ", "\u00b7").replace("$", r"\$") for word in words]  # $...$ would be a formula
    for row, (layer, head) in zip(axes, shown):
        heads = layers[layer]
        ds = heads.ds[0, head]
        largest = np.abs(ds).max()
        maps = (
            (f"layer {layer}: what head {head} looks at", heads.p[0, head], dict(cmap="Blues", vmin=0, vmax=1)),
            ("gradient sent back to values", heads.sent_back[0, head], dict(cmap="Oranges", vmin=0)),
            # dS < 0: more attention would lower the loss. "RdBu" has red for the negative numbers
            ("should look more (blue) / less (red)", -ds, dict(cmap="RdBu", vmin=-largest, vmax=largest)),
        )
        names = ("attention P", "P |dy|", "-dS, minus the gradient of the score")
        for ax, (title, values, colours), name in zip(row, maps, names):
            image = ax.imshow(np.where(np.tri(len(words), dtype=bool), values, np.nan), **colours)
            figure.colorbar(image, ax=ax, shrink=0.8).set_label(name, fontsize="small")
            ax.set_title(title, fontsize="medium")
            ax.set_xticks(places, labels, rotation=90, fontsize="small")
            ax.set_yticks(places, labels, fontsize="small")
        row[0].set_ylabel("token that looks")
        row[0].set_xlabel("token that is looked at")


LESSON = Lesson(
    title="Attention: what a head looks at, and where the gradient goes",
    claim="A token sees itself and the tokens before it, never those after it. Heads of the first layer look near, "
    "those of the last one further. In the backward pass, tokens that got more attention get more of the gradient, and "
    "another gradient says to which tokens the attention should move.",
    idea="Attention is the only place where tokens exchange information. Every token divides one whole attention, 100 "
    "%, among itself and the tokens before it, and takes the average of their values with these weights. Training "
    "sends the gradient back by the same weights: each token learns how its value should have been. A second gradient "
    "goes to queries and keys and says where to look. The attention of a token always adds up to 100 %, so that it can "
    "only be moved from one token to another.",
    measure=measure,
    commands=(
        'minillm lesson attention --text "If the object is not defined, a TypeError is raised."',
        "minillm gradcheck attention",
        "minillm lesson backpropagation     # the same, for one weight",
    ),
    read=("minillm/layers/attention.py", "minillm/layers/softmax.py"),
    sentence="The following expression returns the value of the attribute",
)
