"""Continue one prompt in many ways and compare the texts: `minillm generate --compare`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.errors import MissingExtra, UserError
from minillm.files.atomic import replacing
from minillm.generation.diversity import distinct, repetition_rate
from minillm.generation.score import score_text
from minillm.generation.strategy import Strategy
from minillm.sampler.sampler import Sampler


class Compared(NamedTuple):
    """A strategy's text and its figures (diversity.py, score.py): means over its texts, where it
    wrote several.

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
        "XTC 0.5, min-p 0.02": drawn(min_p=0.02, xtc_probability=0.5),
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
    model,
    tokenizer,
    prompt: Sequence[int],
    max_tokens: int,
    seed: int = 0,
    samples: int = 1,
    *,
    eos_ids: Collection[int] = (),
    stop=(),
) -> list[Compared]:
    """Continue a prompt (ids) with every strategy, by up to max_tokens tokens.

    model: a LanguageModel; tokenizer: its own. samples: texts by each strategy that draws; the
    others have one. eos_ids: the ids that end a text; stop: strings that do.

    Raises UserError where prompt and text do not fit into the context.
    """
    room = model.config.context_length - len(prompt) + 1
    if max_tokens > room:
        raise UserError(
            f"a comparison scores the whole text in one pass: the prompt has {len(prompt)} tokens, the model's context "
            f"{model.config.context_length}, so at most {max(room, 0)} can be written (--max-tokens)"
        )
    results = []
    for name, strategy in strategies(seed).items():
        count = samples if _draws(strategy) else 1
        *_, texts = strategy.write(model, tokenizer, prompt, max_tokens, samples=count, eos_ids=eos_ids, stop=stop)
        figures = np.mean([_figures(model, prompt, text.ids) for text in texts], axis=0)
        tokens = round(sum(len(text.ids) for text in texts) / len(texts))
        results.append(Compared(name, texts[0].text, tokens, *map(float, figures)))
    return results


def _draws(strategy: Strategy) -> bool:
    """Whether two texts of a strategy may differ: it is no search, and not greedy."""
    return strategy.beams == 1 and strategy.contrastive_alpha is None and strategy.sampler.settings.temperature > 0


def _figures(model, prompt: Sequence[int], ids: list[int]) -> tuple[float, ...]:
    log_p, unsure = score_text(model, prompt, ids)
    variety = (distinct(ids, 1), distinct(ids, 2), distinct(ids, 3))
    return (*variety, repetition_rate(ids), float(log_p.mean()), float(unsure.mean()))


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


def draw(results: list[Compared], path: Path, samples: int = 1) -> None:
    """The chart as a PNG file: how likely each text is, and how varied; samples: texts by each
    strategy that draws.

    Raises MissingExtra without matplotlib, UserError for a file that cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("the chart", "matplotlib", "plots") from None
    figure = Figure(figsize=(10, 6.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    longest = max(result.tokens for result in results)
    texts = "one text" if samples == 1 else f"means of {samples} texts"
    figure.suptitle(
        f"The same prompt, continued in {len(results)} ways: {texts} of {longest} tokens each (T: temperature)"
    )
    columns = {
        "mean log-probability\nof a token (nats)": [r.log_probability for r in results],
        "entropy of the model's\nprediction (nats)": [r.entropy for r in results],
        "distinct-2: share of\ndifferent token pairs": [r.distinct_2 for r in results],
        "share of 4-grams that\noccurred before": [r.repetition for r in results],
    }
    names = [r.name for r in results]
    for axes, (title, values) in zip(figure.subplots(1, len(columns), sharey=True), columns.items()):
        axes.barh(names, values, color="tab:blue")
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        if "share" in title:
            axes.set(xlim=(0, 1), xticks=(0, 0.5, 1))
    axes.invert_yaxis()
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another file with --chart") from None
