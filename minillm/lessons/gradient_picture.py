"""The path of gradient_path.py as a graph: the loss on top, the weight at the bottom, on each edge its derivative."""

from __future__ import annotations

import numpy as np

from minillm.lessons.gradient_path import gelu_slope

SHOWN = 3  # nodes of a layer, those through which most comes; the others are counted
BOLD, DIM = "tab:orange", "0.75"


def draw_path(axis, kept, path, tokens, decode, strongest) -> None:
    """kept and path: of `gradient_path.follow`. strongest: the token, channel and logit whose path is drawn bold.

    tokens: the text's, as they are shown; decode: from an id to what is shown.
    """
    t, c, v = strongest
    dz, dx = path["logits"][t], path["x"][t]
    logits = _largest(dz * kept.embedding[:, c])
    channels = _largest(dx * kept.down)
    axis.set(
        xlim=(-0.15, 1.15),
        ylim=(-0.35, 6.3),
        title=f"the paths from the loss to a weight, the strongest through {tokens[t]}",
    )
    axis.set_axis_off()
    rows = dict(loss=6.0, logits=5.0, y=4.0, x=3.1, a=2.1, u=1.25, weight=0.0)
    places = np.linspace(0.1, 0.9, SHOWN + 1)
    middle = 0.5

    for place, logit in zip(places, logits):
        bold = logit == v
        hit = int(logit == kept.targets[t])
        _edge(axis, (middle, rows["loss"]), (place, rows["logits"]), f"(p - {hit})/{len(kept.targets)}", bold)
        _edge(axis, (place, rows["logits"]), (places[0], rows["y"]), f"{kept.embedding[logit, c]:+.3f}", bold)
    for place, channel in zip(places, channels):
        bold = channel == c
        _edge(axis, (place, rows["y"]), (place, rows["x"]), "norm", bold)
        _edge(axis, (place, rows["x"]), (middle, rows["a"]), f"{kept.down[channel]:+.3f}", bold)
    _edge(axis, (middle, rows["a"]), (middle, rows["u"]), f"slope {gelu_slope(kept)[t]:+.3f}", True)

    spread = np.linspace(0.02, 0.98, len(kept.m))
    spread[[t, len(spread) // 2]] = spread[[len(spread) // 2, t]]  # the bold one in the middle
    spread[t] = middle
    for token, place in enumerate(spread):
        _edge(axis, (place, rows["u"]), (middle, rows["weight"]), f"{kept.m[token]:+.2f}", token == t)
        _node(axis, place, rows["u"], f"u at {tokens[token]}", path["u"][token], token == t)

    _node(axis, middle, rows["loss"], "loss", 1.0, True)
    for place, logit in zip(places, logits):
        name = "target" if logit == kept.targets[t] else "logit"
        _node(axis, place, rows["logits"], f"{name} {decode(logit)}", dz[logit], logit == v)
    for place, channel in zip(places, channels):
        _node(axis, place, rows["y"], f"y {channel}", path["y"][t, channel], channel == c)
        _node(axis, place, rows["x"], f"x {channel}", dx[channel], channel == c)
    for row, count in (("logits", len(dz)), ("y", len(dx)), ("x", len(dx))):
        axis.annotate(
            f"and {count - SHOWN} more", (places[-1], rows[row]), ha="center", va="center", color="0.4", fontsize=8
        )
    _node(axis, middle, rows["a"], "a", path["a"][t], True)
    _node(axis, middle, rows["weight"], "weight", path["weight"], True)


def _largest(terms):
    return np.argsort(-np.abs(terms), kind="stable")[:SHOWN]


def _node(axis, x, y, name, gradient, bold) -> None:
    box = dict(boxstyle="round", facecolor="white", edgecolor=BOLD if bold else DIM)
    axis.annotate(f"{name}\n{gradient:+.4f}", (x, y), ha="center", va="center", fontsize=7.5, bbox=box, zorder=3)


def _edge(axis, start, end, derivative, bold) -> None:
    """A line, with the derivative at its middle."""
    axis.plot(*zip(start, end), color=BOLD if bold else DIM, linewidth=2.5 if bold else 0.8, zorder=1)
    middle = (np.array(start) + end) / 2
    box = dict(boxstyle="square,pad=0.1", facecolor="white", edgecolor="none")
    axis.annotate(
        derivative, middle, ha="center", va="center", fontsize=7, color="black" if bold else "0.5", bbox=box, zorder=2
    )
