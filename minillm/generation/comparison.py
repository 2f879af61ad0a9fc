"""Continue one prompt in many ways and compare the texts: `minillm generate --compare`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from minillm.errors import MissingExtra, UserError
from minillm.files.atomic import replacing
from minillm.generation.diversity import distinct, repetition_rate
from minillm.generation.score import score_text
from minillm.generation.strategy import Strategy
from minillm.sampler.sampler import Sampler


class Compared(NamedTuple):
    """A strategy's text and its figures (diversity.py, score.py).

    log_probability: mean per token, in nats, by the model. entropy: mean entropy of the model's
    next-token distribution at the same places, in nats: how uncertain it was.
    """

    name: str
    text: str
    tokens: int
    distinct_1: float
    distinct_2: float
    distinct_3: float
    repetition: float
    log_probability: float
    entropy: float


def strategies(seed: int) -> dict[str, Strategy]:
    """Every strategy with its usual settings; a name says what a penalty is combined with."""

    def drawn(temperature=1.0, top_k=None, **settings):
        return Strategy(Sampler(temperature, top_k, seed, **settings))

    return {
        "greedy": drawn(0),
        "multinomial": drawn(),
        "temperature 0.7": drawn(0.7),
        "temperature 1.5": drawn(1.5),
        "top-k 40": drawn(top_k=40),
        "top-p 0.9": drawn(top_p=0.9),
        "min-p 0.05": drawn(min_p=0.05),
        "typical 0.9": drawn(typical_p=0.9),
        "epsilon 0.001": drawn(epsilon_cutoff=1e-3),
        "eta 0.002": drawn(eta_cutoff=2e-3),
        "top-n-sigma 1": drawn(top_n_sigma=1.0),
        "XTC 0.5": drawn(min_p=0.02, xtc_probability=0.5),
        "repetition 1.3, greedy": drawn(0, repetition_penalty=1.3),
        "presence 1, T 0.7": drawn(0.7, presence_penalty=1.0),
        "frequency 0.5, T 0.7": drawn(0.7, frequency_penalty=0.5),
        "no 3-gram twice, greedy": drawn(0, no_repeat_ngram=3),
        "DRY 0.8, T 0.7": drawn(0.7, dry_multiplier=0.8),
        "mirostat 3": drawn(mirostat_tau=3.0),
        "beams 4": Strategy(beams=4),
        "contrastive 0.6": Strategy(Sampler(top_k=4), contrastive_alpha=0.6),
    }


def compare(
    model, tokenizer, prompt: Sequence[int], max_tokens: int, seed: int = 0, *, eos_ids: Collection[int] = (), stop=()
) -> list[Compared]:
    """Continue a prompt (ids) with every strategy.

    Raises UserError if prompt and text together exceed the context.
    """
    room = model.config.context_length - len(prompt) + 1
    if max_tokens > room:
        raise UserError(
            f"a comparison scores the whole text in one pass: the prompt has {len(prompt)} tokens, the model's context "
            f"{model.config.context_length}, so at most {max(room, 0)} can be written (--max-tokens)"
        )
    results = []
    for name, strategy in strategies(seed).items():
        *_, (completion,) = strategy.write(model, tokenizer, prompt, max_tokens, eos_ids=eos_ids, stop=stop)
        log_p, unsure = score_text(model, prompt, completion.ids)
        variety = (distinct(completion.ids, 1), distinct(completion.ids, 2), distinct(completion.ids, 3))
        figures = (*variety, repetition_rate(completion.ids), float(log_p.mean()), float(unsure.mean()))
        results.append(Compared(name, completion.text, len(completion.ids), *figures))
    return results


def table(results: list[Compared]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column heads and rows of text."""
    heads = ("strategy", "tokens", "dist-1", "-2", "-3", "repeat", "log p", "entropy")
    rows = [
        (
            r.name,
            str(r.tokens),
            f"{r.distinct_1:.2f}",
            f"{r.distinct_2:.2f}",
            f"{r.distinct_3:.2f}",
            f"{r.repetition:.0%}",
            f"{r.log_probability:.2f}",
            f"{r.entropy:.2f}",
        )
        for r in results
    ]
    return heads, rows


def draw(results: list[Compared], path: Path) -> None:
    """Draw likelihood and variety of the texts into a PNG file.

    Raises MissingExtra without matplotlib, UserError if the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("the chart", "matplotlib", "plots") from None
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"One text of at most {max(r.tokens for r in results)} tokens for each strategy")
    columns = {
        "mean log-probability\nof a token (nats)": [r.log_probability for r in results],
        "entropy of the model's\nprediction (nats)": [r.entropy for r in results],
        "distinct-2: share of\ndifferent token pairs": [r.distinct_2 for r in results],
        "share of 4-grams that\noccurred before": [r.repetition for r in results],
    }
    names = [r.name for r in results]
    for axes, (title, values) in zip(figure.subplots(1, len(columns), sharey=True), columns.items()):
        axes.barh(names, values, color="tab:blue")
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        if "share" in title:
            axes.set_xlim(0, 1)
    axes.invert_yaxis()
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another file with --chart") from None
