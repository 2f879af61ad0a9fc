"""Lesson: greedy against sampling.

Greedy decoding takes the likeliest token every time. To the model its texts are likelier than
anything people write, and they repeat themselves: Holtzman et al., "The Curious Case of Neural Text
Degeneration" (2020), sections 3 and 4. Drawing from the model's own distribution p(. | the tokens
so far) gives texts whose mean log-probability per token is minus the entropy of that distribution.
People's texts have about the same log-probability, if the model has learned their distribution
well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.data.corpora import load_text, split_text
from minillm.generation.decoder import reader
from minillm.generation.diversity import distinct, repetition_rate
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import CORPUS, small_model
from minillm.sampler import Sampler
from minillm.sampler.probability import log_softmax

TEXTS, PROMPT, WRITTEN = 16, 8, 120  # places in the validation text, tokens of each prompt, tokens written
SHOWN = 40  # tokens shown of the texts that continue the reader's sentence
PEOPLE = "people"
WAYS = {
    "greedy": dict(temperature=0),
    "temperature 0.5": dict(temperature=0.5),
    "temperature 1": dict(temperature=1.0),
    "temperature 2": dict(temperature=2.0),
    "top-k 20": dict(top_k=20),
    "top-p 0.9": dict(top_p=0.9),
    "min-p 0.1": dict(min_p=0.1),
}


class Score(NamedTuple):
    """Means over several texts."""

    repetition: float  # share of 4-grams that occurred before in the same text
    distinct: tuple[float, float, float]  # distinct-1, 2, 3
    log_probability: float  # mean per token, by the model, in nats


def measure(sentence: str) -> Measured:
    """Continue the same prompts in several ways and compare with what people wrote; continue the
    sentence in two ways.
    """
    model, tokenizer, _, _ = small_model()
    ids = np.array(tokenizer.encode(split_text(load_text([CORPUS]))[1]))
    places = np.linspace(0, len(ids) - PROMPT - WRITTEN, TEXTS).astype(int)
    windows = np.array([ids[place : place + PROMPT + WRITTEN] for place in places])
    beginnings, people = windows[:, :PROMPT], windows[:, PROMPT:]

    scores = {PEOPLE: score(people, write(model, beginnings, lambda step, logits: people[:, step])[1])}
    shown = {}
    for way, settings in WAYS.items():
        texts, log_probabilities = write(model, beginnings, drawing(settings))
        scores[way] = score(texts, log_probabilities)
        shown[way] = median_text(texts)
    prompt = np.array([tokenizer.encode(sentence)])
    own = {way: write(model, prompt, drawing(WAYS[way]))[0][0] for way in ("greedy", "temperature 1")}
    return Measured(
        tables=[
            Table(
                f"{TEXTS} texts of {WRITTEN} tokens, scored by the model",
                ("written by", "repetition", "distinct-1", "-2", "-3", "nats a token", "perplexity"),
                [
                    (way, f"{s.repetition:.1%}", *(f"{d:.3f}" for d in s.distinct))
                    + (f"{s.log_probability:.2f}", f"{np.exp(-s.log_probability):.1f}")
                    for way, s in scores.items()
                ],
            ),
            Table(
                f'After "{sentence}"',
                ("written by", "text"),
                [(way, repr(tokenizer.decode(text[:SHOWN].tolist()))) for way, text in own.items()],
            ),
        ],
        findings=_findings(scores),
        draw=lambda figure: _draw(figure, scores, shown),
        figures={f"repetition, {way}": s.repetition for way, s in scores.items()}
        | {f"distinct-2, {way}": s.distinct[1] for way, s in scores.items()}
        | {f"log-probability, {way}": s.log_probability for way, s in scores.items()},
    )


def _findings(scores: dict[str, Score]) -> list[Finding]:
    greedy, sampled, people = scores["greedy"], scores["temperature 1"], scores[PEOPLE]
    gap = greedy.log_probability - people.log_probability
    sampled_gap = sampled.log_probability - people.log_probability
    rising = [scores[way].distinct[1] for way in WAYS if way == "greedy" or way.startswith("temperature")]
    return [
        Finding(
            f"greedy repeats itself: {greedy.repetition:.0%} of its 4-grams occurred before in the same text, "
            f"{people.repetition:.0%} of people's, {sampled.repetition:.1%} of those drawn at temperature 1",
            greedy.repetition > 2 * max(people.repetition, sampled.repetition),
        ),
        Finding(
            f"the likeliest text is not what people write: greedy's has {gap:.2f} nats more per token than theirs",
            gap > 0.7,
        ),
        Finding(
            f"texts drawn at temperature 1 are about as likely as people's (difference {sampled_gap:+.2f} nats per "
            "token)",
            abs(sampled_gap) < gap / 3,
        ),
        Finding(
            "the warmer, the more varied: distinct-2 is " + ", ".join(f"{d:.3f}" for d in rising),
            all(np.diff(rising) > 0),
        ),
    ]


def write(model, prompt, choose) -> tuple[np.ndarray, np.ndarray]:
    """Continue prompts (B, T) by WRITTEN tokens; returns ids and log-probabilities by the model,
    (B, WRITTEN) each.

    choose: a function of the step and the logits (B, V) that returns the next ids (B,).
    """
    read, ids, log_probabilities, latest = reader(model), [], [], prompt
    for step in range(WRITTEN):
        logits = read(latest)
        ids.append(choose(step, logits))
        log_probabilities.append(log_softmax(logits)[np.arange(len(logits)), ids[-1]])
        latest = ids[-1][:, None]
    return np.array(ids).T, np.array(log_probabilities).T


def drawing(settings: dict):
    """The `choose` of `write` for a sampler with these settings."""
    sampler = Sampler(seed=1, **settings)
    return lambda step, logits: sampler.sample(logits)


def score(texts, log_probabilities) -> Score:
    """texts and the log-probabilities of their tokens, (B, T) each."""
    varied = tuple(float(np.mean([distinct(text, n) for text in texts])) for n in (1, 2, 3))
    return Score(float(np.mean([repetition_rate(text) for text in texts])), varied, float(log_probabilities.mean()))


def median_text(texts) -> np.ndarray:
    """Of texts (B, T), the one (T,) with the median repetition rate: half of the others repeat
    themselves more.
    """
    return sorted(texts, key=repetition_rate)[len(texts) // 2]


def _draw(figure, scores, shown) -> None:
    figure.set_size_inches(11, 6)
    axes = figure.subplot_mosaic([["greedy", "all", "all"], ["temperature 1", "all", "all"]])
    for way in ("greedy", "temperature 1"):
        text = shown[way]
        same = text[:, None] == text[None, :]
        axes[way].imshow(same[:-1, :-1] & same[1:, 1:], cmap="Greys", interpolation="nearest")
        title = f"{way}: {repetition_rate(text):.0%} repeated\n(the median of {TEXTS} texts)"
        axes[way].set(title=title, xticks=(), yticks=(), xlabel="place in the text", ylabel="place in the text")
        axes[way].title.set_fontsize("medium")
    axes["temperature 1"].set(
        xlabel="place in the text\n\nblack: the same two tokens occur at both places.\nlines beside the diagonal: a "
        "repetition"
    )
    everything, at = axes["all"], {way: (s.log_probability, s.distinct[1]) for way, s in scores.items()}
    path = [way for way in WAYS if way == "greedy" or way.startswith("temperature")]
    everything.plot(*zip(*(at[way] for way in path)), marker="o", color="0.6", label="temperature, 0 (greedy) to 2")
    for way in path:
        name = way.removeprefix("temperature ")
        everything.annotate(name, at[way], (0, -16), textcoords="offset points", ha="center")
    for way, marker in zip([way for way in scores if way not in path], "*s^v"):
        everything.plot(*at[way], marker, markersize=14 if way == PEOPLE else 7, label=way)
    everything.set(
        xlabel="mean log-probability of a token (nats)",
        ylabel="different pairs of tokens (distinct-2)",
        ylim=(0, 1.05),
        title="likely and repetitive, or varied",
    )
    everything.margins(x=0.15)
    everything.legend(loc="lower left")


LESSON = Lesson(
    title="Greedy against sampling: the likeliest text is a loop",
    claim="Always taking the likeliest token gives text that is far likelier, by the model, than what people write, "
    "and that goes in circles. Drawing from the model's probabilities gives text that is as likely as people's, and "
    "varied.",
    idea="A model gives every possible next token a probability. Greedy decoding takes the largest, sampling throws "
    "dice with these probabilities. People do not write the likeliest word every time: they have something to say. "
    "Repetition is the share of runs of four tokens that occurred before in the same text, distinct-n the share of "
    "different runs of n tokens. In a loop the first is high and the second low.",
    measure=measure,
    seconds=3,
    commands=(
        'minillm lesson greedy-or-sampling --text "If the"',
        'minillm generate MODEL --prompt "The" --temperature 0     # then with --no-repeat-ngram 4, which forbids the loop',
        'minillm generate MODEL --prompt "The" --temperature 1 --seed 1     # then other seeds',
        'minillm generate MODEL --prompt "The" --compare --max-tokens 60     # every strategy, side by side',
    ),
    read=("minillm/generation/diversity.py", "minillm/sampler/draw.py", "minillm/generation/generate.py"),
    sentence="The value of the",
)
