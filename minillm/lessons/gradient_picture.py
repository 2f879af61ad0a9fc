"""The path of gradient_path.py as a graph: the loss on top, the weight at the bottom, on each edge
its derivative.
"""

from __future__ import annotations

import numpy as np

from minillm.lessons.gradient_path import gelu_slope

SHOWN = 3  # nodes of a layer with the largest contributions; the others are only counted
BOLD, DIM = "tab:orange", "0.75"
ROWS = dict(loss=6.0, logits=5.0, y=4.0, x=3.1, a=2.1, u=1.25, weight=0.0)  # -> heights
MIDDLE, PLACES = 0.5, np.linspace(0.1, 0.9, SHOWN + 1)  # x: of single nodes; of the shown nodes and "and N more"


def draw_path(axis, kept, path, tokens, decode, strongest) -> None:
    """kept and path: of `gradient_path.follow`.

    strongest: the token, channel and logit whose path is drawn bold.

    tokens: the text's, as text. decode: id -> text.
    """
    t, c, v = strongest
    axis.set(
        xlim=(-0.15, 1.15),
        ylim=(-0.35, 6.3),
        title=f"the paths from the loss to a weight; the strongest, through {tokens[t]}, is bold",
    )
    axis.set_axis_off()
    logits = _largest(path["logits"][t] * kept.embedding[:, c])
    channels = _largest(path["x"][t] * kept.down)
    _draw_logits(axis, kept, path, decode, logits, strongest)
    _draw_channels(axis, kept, path, channels, strongest)
    _edge(axis, (MIDDLE, ROWS["a"]), (MIDDLE, ROWS["u"]), f"slope {gelu_slope(kept)[t]:+.3f}", True)
    _node(axis, MIDDLE, ROWS["loss"], "loss", 1.0, True)
    _node(axis, MIDDLE, ROWS["a"], "a", path["a"][t], True)
    _draw_tokens(axis, kept, path, tokens, t)
    _node(axis, MIDDLE, ROWS["weight"], "weight", path["weight"], True)


def _draw_logits(axis, kept, path, decode, logits, strongest) -> None:
    """From the loss to a few logits, and on to the channel of y."""
    t, c, v = strongest
    for place, logit in zip(PLACES, logits):
        hit, bold = int(logit == kept.targets[t]), logit == v
        _edge(axis, (MIDDLE, ROWS["loss"]), (place, ROWS["logits"]), f"(p - {hit})/{len(kept.targets)}", bold)
        _edge(axis, (place, ROWS["logits"]), (PLACES[0], ROWS["y"]), f"{kept.embedding[logit, c]:+.3f}", bold)
        name = f"{'target' if hit else 'logit'} {decode(logit)}"
        _node(axis, place, ROWS["logits"], name, path["logits"][t, logit], bold)
    _more(axis, "logits", len(kept.embedding))


def _draw_channels(axis, kept, path, channels, strongest) -> None:
    """From a few channels of y to those of x, and on to a."""
    t, c, _ = strongest
    for place, channel in zip(PLACES, channels):
        bold = channel == c
        _edge(axis, (place, ROWS["y"]), (place, ROWS["x"]), "norm", bold)
        _edge(axis, (place, ROWS["x"]), (MIDDLE, ROWS["a"]), f"{kept.down[channel]:+.3f}", bold)
        for name in ("y", "x"):
            _node(axis, place, ROWS[name], f"{name}, number {channel}", path[name][t, channel], bold)
    for name in ("y", "x"):
        _more(axis, name, len(kept.down))


def _draw_tokens(axis, kept, path, tokens, strongest) -> None:
    """u at every token, and all of them to the weight; the bold one in the middle."""
    places = np.linspace(0.02, 0.98, len(kept.m))
    others = [token for token in range(len(kept.m)) if token != strongest]
    others.insert(len(others) // 2, strongest)
    for place, token in zip(places, others):
        place = MIDDLE if token == strongest else place
        _edge(axis, (place, ROWS["u"]), (MIDDLE, ROWS["weight"]), f"{kept.m[token]:+.2f}", token == strongest)
        _node(axis, place, ROWS["u"], f"u at {tokens[token]}", path["u"][token], token == strongest)


def _more(axis, row, count) -> None:
    axis.annotate(
        f"and {count - SHOWN} more", (PLACES[-1], ROWS[row]), ha="center", va="center", color="0.4", fontsize=9
    )


def _largest(terms):
    return np.argsort(-np.abs(terms), kind="stable")[:SHOWN]


def _node(axis, x, y, name, gradient, bold) -> None:
    box = dict(boxstyle="round", facecolor="white", edgecolor=BOLD if bold else DIM)
    axis.annotate(f"{name}\n{gradient:+.4f}", (x, y), ha="center", va="center", fontsize=9, bbox=box, zorder=3)


def _edge(axis, start, end, derivative, bold) -> None:
    """A line, with the derivative at its middle."""
    axis.plot(*zip(start, end), color=BOLD if bold else DIM, linewidth=2.5 if bold else 0.8, zorder=1)
    middle = (np.array(start) + end) / 2
    box = dict(boxstyle="square,pad=0.1", facecolor="white", edgecolor="none")
    axis.annotate(
        derivative, middle, ha="center", va="center", fontsize=8.5, color="black" if bold else "0.5", bbox=box, zorder=2
    )
