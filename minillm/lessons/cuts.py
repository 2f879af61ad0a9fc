"""Lesson: top-k, top-p, min-p.

Each cut keeps some of the likeliest tokens and divides all of the probability among them
(definitions: minillm/sampler/cuts.py):

    top-k    the k likeliest tokens, everywhere
    top-p    the likeliest tokens, down to and including the one with which their sum reaches p:
             at most 1 - p of the probability is removed
    min-p    tokens at least m times as likely as the likeliest, p_i >= m max_j p_j:
             at most 1 / (m max_j p_j) tokens are kept

The last two follow the model: few tokens where it is sure, many where it is not.
"""

from __future__ import annotations

import numpy as np

from minillm.data.corpora import load_text, split_text
from minillm.errors import UserError
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import CORPUS, small_model
from minillm.sampler import Sampler
from minillm.sampler.probability import entropy

K, P, M = 20, 0.9, 0.1
CUTS = {f"top-k {K}": dict(top_k=K), f"top-p {P}": dict(top_p=P), f"min-p {M}": dict(min_p=M)}
WINDOWS = 32  # of the validation text, as long as the model's context: 2,048 places
TENTH = 0.1  # of the places: the tenth where the model is surest, and the one where it is least sure
UNLIKELY = 0.01
RANKS = 80  # likeliest tokens in the picture
LINES = dict(zip(CUTS, (("tab:orange", 2), ("tab:green", 5), ("tab:red", 1.5))))  # colour, width


def measure(sentence: str) -> Measured:
    """What the cuts keep at every place of a text, and at the surest and the least sure place of
    the sentence.
    """
    model, tokenizer, _, _ = small_model()
    own_ids = tokenizer.encode(sentence)
    if len(own_ids) < 2:
        raise UserError(f'"{sentence}" is a single token: give a sentence of at least two')
    own = probabilities(model, np.array([own_ids]))
    places = np.argsort(entropy(own))[[0, -1]]

    ids = np.array(tokenizer.encode(split_text(load_text([CORPUS]))[1]))
    context = model.config.context_length
    starts = np.linspace(0, len(ids) - context - 1, WINDOWS).astype(int)
    windows = np.array([ids[start : start + context + 1] for start in starts])
    p, written = probabilities(model, windows[:, :-1]), windows[:, 1:].ravel()
    order = np.argsort(entropy(p), kind="stable")
    count = int(TENTH * len(order))
    tenths = {"surest": order[:count], "least sure": order[-count:]}

    kept = {name: after_cut(p, settings) > 0 for name, settings in CUTS.items()}  # (N, V)
    figures = {}
    for name, mask in kept.items():
        for tenth, at in tenths.items():
            figures[f"tokens, {name}, {tenth}"] = float(mask[at].sum(axis=-1).mean())
            figures[f"mass, {name}, {tenth}"] = float((p * mask)[at].sum(axis=-1).mean())
            figures[f"written, {name}, {tenth}"] = float(mask[at, written[at]].mean())
            figures[f"unlikely, {name}, {tenth}"] = float((mask & (p < UNLIKELY))[at].sum(axis=-1).mean())
    figures["least mass"] = float((p * kept[f"top-p {P}"]).sum(axis=-1).min())
    figures["most of what min-p allows"] = float((kept[f"min-p {M}"].sum(axis=-1) * M * p.max(axis=-1)).max())
    return Measured(
        tables=[*(_place(own[at], own_ids[: at + 1], tokenizer) for at in places), _averages(figures, tenths)],
        findings=_findings(figures),
        draw=lambda figure: _draw(figure, own, places, own_ids, tokenizer, entropy(p), kept),
        figures=figures,
    )


def _findings(figures: dict[str, float]) -> list[Finding]:
    k, p, m = CUTS
    tokens = {name: [figures[f"tokens, {name}, {tenth}"] for tenth in ("surest", "least sure")] for name in CUTS}
    unlikely, left = figures[f"unlikely, {k}, surest"], figures[f"mass, {k}, least sure"]
    written, spared = figures[f"written, {k}, least sure"], figures[f"written, {p}, least sure"]
    return [
        Finding(
            f"top-k keeps {tokens[k][0]:g} tokens where the model is sure and {tokens[k][1]:g} where it is not: "
            f"{unlikely:.1f} of the former have less than {UNLIKELY:.0%} each, the latter {left:.0%} of the "
            "probability together",
            tokens[k] == [K, K] and unlikely > K / 2 and left < 0.8,
        ),
        Finding(
            f"top-p keeps {tokens[p][0]:.1f} and {tokens[p][1]:.1f}, min-p {tokens[m][0]:.1f} and {tokens[m][1]:.1f}",
            tokens[p][1] > 5 * tokens[p][0] and tokens[m][1] > 5 * tokens[m][0],
        ),
        Finding(
            f"where the model is least sure, the token that people wrote is kept by top-k in {written:.0%} of the "
            f"places, top-p in {spared:.0%}",
            written < spared - 0.1,
        ),
        Finding(
            f"top-p nowhere removes more than {1 - P:.0%} of the probability (keeps {figures['least mass']:.2%} or "
            f"more), and min-p nowhere keeps more than 1 / ({M} x the largest probability) tokens",
            figures["least mass"] >= P - 1e-6 and figures["most of what min-p allows"] <= 1 + 1e-6,
        ),
    ]


def _place(p, ids: list[int], tokenizer) -> Table:
    """What the cuts keep of the distribution p (V,) after the ids."""
    rows = []
    for name, settings in CUTS.items():
        kept = np.flatnonzero(after_cut(p[None], settings)[0])
        kept = kept[np.argsort(-p[kept], kind="stable")]
        first = " ".join(repr(tokenizer.decode([i])) for i in kept[:3]) + (" ..." if len(kept) > 3 else "")
        last = f"{tokenizer.decode([kept[-1]])!r} {p[kept[-1]]:.1%}"
        rows.append((name, f"{len(kept)}", f"{p[kept].sum():.1%}", first, last))
    title = f"After {tokenizer.decode(ids)!r}: entropy {entropy(p):.2f} nats, the likeliest has {p.max():.0%}"
    return Table(title, ("cut", "tokens", "probability", "the likeliest", "the last one"), rows)


def _averages(figures: dict[str, float], tenths: dict) -> Table:
    rows = []
    for name in CUTS:
        for tenth in tenths:
            tokens, mass, written = (figures[f"{what}, {name}, {tenth}"] for what in ("tokens", "mass", "written"))
            rows.append((name, tenth, f"{tokens:.1f}", f"{mass:.1%}", f"{written:.1%}"))
    columns = ("cut", "tenth of places", "tokens", "probability", "what people wrote is kept")
    return Table("The validation text, where the model is surest and where it is least sure", columns, rows)


def probabilities(model, ids):
    """ids (B, T)  ->  the next token's distribution at every place, (B T, V) float64"""
    logits = model.forward(ids).reshape(-1, model.config.vocab_size)
    return Sampler().probabilities(logits).astype(np.float64)


def after_cut(p, settings: dict):
    """Probabilities (N, V) after one of the sampler's cuts, which take log p as logits.

    >>> after_cut(np.array([[0.1, 0.4, 0.3, 0.2]]), dict(top_k=2)).round(2)
    array([[0.  , 0.57, 0.43, 0.  ]], dtype=float32)
    """
    return Sampler(**settings).probabilities(np.log(np.maximum(p, np.finfo(np.float32).tiny)))


def _draw(figure, own, places, own_ids, tokenizer, entropies, kept) -> None:
    figure.set_size_inches(11, 5.5)
    sure, unsure, text = figure.subplots(1, 3)
    for axes, at in ((sure, places[0]), (unsure, places[1])):
        p = np.sort(own[at])[::-1]
        axes.bar(np.arange(1, RANKS + 1), p[:RANKS], width=1.0, color="0.7")
        for name, settings in CUTS.items():
            count = np.count_nonzero(after_cut(own[at][None], settings))
            colour, width = LINES[name]  # lines at the same rank lie on each other: the wide one is drawn first
            axes.axvline(count + 0.5, color=colour, linewidth=width, zorder=3 - width / 10, label=f"{name}: {count}")
        title = f"after {_end_of(tokenizer.decode(own_ids[: at + 1]))}"
        axes.set(title=title, xlabel="rank of the token", yscale="log", ylim=(1e-4, 1))
        axes.legend(fontsize="small", title="kept, up to the line", loc="upper center", bbox_to_anchor=(0.5, -0.15))
    sure.set_ylabel("probability")
    for name, mask in kept.items():
        text.plot(entropies, mask.sum(axis=-1), ".", markersize=2, color=LINES[name][0], label=name)
    text.set(title="every place of a text", xlabel="entropy (nats)", ylabel="tokens kept", yscale="log")
    text.legend(fontsize="small", markerscale=5, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def _end_of(text: str, length: int = 14) -> str:
    """The end of a text for a title, where $...$ would be a formula."""
    return (repr(text) if len(text) <= length else f"...{text[-length:]!r}").replace("$", r"\$")


LESSON = Lesson(
    title="Top-k, top-p, min-p: who survives",
    claim="Where the model is sure, top-k keeps tokens that make no sense; where the model is not sure, top-k removes "
    "many that do. Top-p and min-p keep few tokens in the one case and many in the other.",
    idea="Each unlikely token is drawn rarely, but there are hundreds of them: together they are drawn often, and each "
    "time the text derails. So they are cut before the draw. Top-k keeps the k likeliest tokens. Top-p keeps the "
    "likeliest tokens, down to and including the one with which their sum reaches p. Min-p keeps the tokens that are "
    "at least m times as likely as the likeliest. The entropy of a distribution measures how sure the model is: it is "
    "low where one token has nearly all of the probability, and high where many share it.",
    measure=measure,
    commands=(
        'minillm lesson cuts --text "If the object is not defined, a TypeError is raised."',
        'minillm generate MODEL --prompt "The fol" --temperature 1 --top-p 0.9 --trace --max-tokens 3     # what is cut',
        'minillm generate MODEL --prompt "The" --temperature 1.5 --top-k 20     # warm, with each of the cuts',
        'minillm generate MODEL --prompt "The" --temperature 1.5 --top-p 0.9',
        'minillm generate MODEL --prompt "The" --temperature 1.5 --min-p 0.1',
    ),
    read=("minillm/sampler/cuts.py", "minillm/sampler/sampler.py"),
    sentence="The following expression returns the value of the attribute",
)
