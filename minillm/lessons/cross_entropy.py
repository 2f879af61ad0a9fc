"""Lesson: cross-entropy and perplexity.

If tokens come with the probabilities p and a model predicts q, then the mean of -log q over the
tokens is

    H(p, q) = -sum_j p_j log q_j = H(p) + KL(p || q)
    H(p) = -sum_j p_j log p_j,      KL(p || q) = sum_j p_j log (p_j / q_j)

(Shannon, 1948; Kullback, Leibler, 1951). By Jensen's inequality KL is never below 0, and it is 0
only for q = p. So cross-entropy is the entropy, which no model can avoid, plus the distance from
the true distribution. Perplexity is exp(H(p, q)) (Jelinek, Mercer, Bahl, Baker, 1977); for k equal
choices H = -sum 1/k log 1/k = log k, and the perplexity is k.

For real text p is not known, and so it is not known how much better a model could be. Here the text
comes from a grammar with known probabilities (grammar.py), so that the lowest possible loss can be
computed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.layers.cross_entropy import cross_entropy_forward
from minillm.lessons.grammar import SENTENCE, Grammar, Text
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_training import training
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.optim import AdamW, make_schedule
from minillm.sampler.probability import log_softmax, softmax

TRUE = (4, 2, 1, 1)  # how often, of 8 times, each of four tokens comes
BELIEFS = {
    "the truth": (4, 2, 1, 1),
    "all equal": (2, 2, 2, 2),
    "nearly": (3, 3, 1, 1),
    "reversed": (1, 1, 2, 4),
}
CHOICES = (1, 2, 3, 10, 100, 50_257)
GRAMMAR_SEED = 8  # one with nested sentences
LEARNED, VALIDATED = 400_000, 40_000  # words
WINDOWS, CONTEXT = 16, 32  # in a batch, and words in a window
STEPS = 700
LOOKS = (0, 5, 10, 20, 30, 50, 70, 100, 150, 200, 300, 400, 500, 600, STEPS)  # evaluations
QUOTED = 12  # words of the text above the table
SHOWN = (0, 30, 100, 300, STEPS)  # in the table
NEAR = 0.01  # nats above the floor
LEARNING_RATE, WARMUP_STEPS = 4e-3, 50
SEED = 1
PREFIX = ". the man who likes the cat"  # a verb must follow: it closes the outer clause


class Distances(NamedTuple):
    """Means over some words, in nats: H(p), KL(p || q), and the model's loss, -log q of the words
    that came.
    """

    step: int
    entropy: float
    divergence: float
    loss: float
    source_loss: float  # -log p of the words that came


def measure() -> Measured:
    """Cross-entropy against its definition, for k equal choices, and in training against the lowest
    possible loss.
    """
    beliefs = {name: believe(np.array(TRUE) / 8, np.array(counts) / 8) for name, counts in BELIEFS.items()}
    perplexities = {k: equal_choices(k) for k in CHOICES}
    grammar = Grammar(GRAMMAR_SEED)
    text = grammar.write(LEARNED, SEED)
    simple = {"words alone": unigram_entropy(text.words), "the word before": bigram_entropy(text.words)}
    model, history = learn(grammar, text, grammar.write(VALIDATED, SEED + 1))
    floor = grammar.entropy_rate()
    figures = {
        "definition error": max(abs(entropy + divergence - loss) for entropy, divergence, loss in beliefs.values()),
        "choices error": max(abs(perplexity / k - 1) for k, perplexity in perplexities.items()),
        "floor": floor,
        "written": source_loss(grammar, text),
        "standard error": standard_error(grammar, text),
        "first divergence": history[0].divergence,
        "last divergence": history[-1].divergence,
        "first loss": history[0].loss,
        "last loss": history[-1].loss,
        "last source loss": history[-1].source_loss,
        "one word": simple["the word before"],
    }
    lowest = min(beliefs, key=lambda name: beliefs[name][2])
    return Measured(
        tables=[_table_of_beliefs(beliefs), _table_of_the_source(grammar, text, simple, history, floor)],
        findings=_findings(figures, lowest),
        draw=lambda figure: _draw(figure, grammar, model, history, simple, floor),
        figures=figures,
    )


def _findings(figures, lowest: str) -> list[Finding]:
    f = figures
    choices = ", ".join(f"{k:,}" for k in CHOICES)
    return [
        Finding(
            f"the engine's loss is entropy plus distance (difference {f['definition error']:.0e} nats), and lowest "
            f"for {lowest}",
            f["definition error"] < 1e-12 and lowest == "the truth",
        ),
        Finding(
            f"unsure between k equal choices, k = {choices}: perplexity k (relative difference "
            f"{f['choices error']:.0e})",
            f["choices error"] < 1e-12,
        ),
        Finding(
            f"the grammar has {f['floor']:.4f} nats a word, computed; the {LEARNED:,} words that it wrote have "
            f"{f['written']:.4f}, with a standard error of {f['standard error']:.4f}",
            abs(f["written"] - f["floor"]) < 4 * f["standard error"],
        ),
        Finding(
            f"training brings the loss from {f['first divergence']:.2f} to {f['last divergence']:.4f} nats above the "
            f"floor; on the validation text from perplexity {math.exp(f['first loss']):.1f} to "
            f"{math.exp(f['last loss']):.3f}, where the grammar itself has {math.exp(f['last source loss']):.3f}",
            0 < f["last divergence"] < NEAR,
        ),
        Finding(
            f"it goes below {f['one word']:.3f} nats, the floor of all models that see one word only",
            f["last loss"] < f["one word"],
        ),
    ]


# -------------------------------------------------------------------------------------------- definitions, in numbers


def believe(p, q) -> tuple[float, float, float]:
    """p, q (V,)  ->  H(p) and KL(p || q) by definition, and the engine's mean loss on tokens
    distributed as p.

    p must be whole eighths.

    >>> [round(x, 4) for x in believe(np.array([0.5, 0.5]), np.array([0.75, 0.25]))]
    [0.6931, 0.1438, 0.837]
    """
    targets = np.repeat(np.arange(len(p)), np.rint(8 * p).astype(int))
    logits = np.tile(np.log(q) + 3.0, (len(targets), 1))  # adding a constant to all logits changes nothing
    loss, _ = cross_entropy_forward(logits, targets)
    return float(-(p * np.log(p)).sum()), float((p * np.log(p / q)).sum()), float(loss)


def equal_choices(k: int) -> float:
    """The engine's perplexity for a model with k equally likely tokens, and k others of probability
    0.
    """
    logits = np.repeat([0.0, -np.inf], k)[None, :]  # (1, 2k)
    loss, _ = cross_entropy_forward(logits, np.zeros(1, int))
    return math.exp(loss)


# ----------------------------------------------------------------------------------------------- a known source


def source_loss(grammar: Grammar, text: Text) -> float:
    """The mean of -log p over the words of a text, p by the grammar that wrote it."""
    return float(-np.log(grammar.probabilities[text.symbols, text.words]).mean())


def standard_error(grammar: Grammar, text: Text) -> float:
    """Of `source_loss` as an estimate of the entropy rate.

    Sentences are independent, their words are not.
    """
    deviations = -np.log(grammar.probabilities[text.symbols, text.words]) - grammar.entropy_rate()
    sentences = np.add.reduceat(deviations, sentence_starts(grammar, text))
    return float(sentences.std() * math.sqrt(len(sentences)) / len(text.words))


def sentence_starts(grammar: Grammar, text: Text) -> np.ndarray:
    """The places of the first words of sentences."""
    return np.flatnonzero(text.symbols == grammar.symbols.index(SENTENCE))


def unigram_entropy(words) -> float:
    """Nats a word for a model that knows only how often each word comes."""
    p = np.bincount(words) / len(words)
    return float(-(p * np.log(np.where(p > 0, p, 1.0))).sum())


def bigram_entropy(words) -> float:
    """H(next | word) = H(word, next) - H(word), from how often words (N,) follow each other.

    >>> bigram_entropy(np.array([0, 1, 0, 1, 0, 1, 0, 1, 0]))  # the word before tells all
    0.0
    """
    pairs = words[:-1] * (words.max() + 1) + words[1:]
    return unigram_entropy(pairs) - unigram_entropy(words[:-1])


# ---------------------------------------------------------------------------------------------------------- training


def learn(grammar: Grammar, text: Text, validation: Text) -> tuple[GPT2, list[Distances]]:
    """Train a small GPT-2 on windows of the text that begin with a sentence, and see how far it is
    from the grammar.

    A window that began elsewhere would hide what is still to be closed, and its floor would be
    another one.
    """
    model = GPT2(GPT2Config(len(grammar.words), CONTEXT, n_layer=2, n_head=4, d_model=64, bias=False), seed=SEED)
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    schedule = make_schedule("cosine", LEARNING_RATE, STEPS, WARMUP_STEPS, LEARNING_RATE / 20)
    starts = windows_of(grammar, text)

    def batch(step):
        chosen = starts[stream(SEED, "batch", step).integers(len(starts), WINDOWS)]
        return text.words[chosen[:, None] - 1 + np.arange(CONTEXT)], text.words[chosen[:, None] + np.arange(CONTEXT)]

    history = []
    for step in training(model, optimizer, batch, schedule, STEPS):
        if step in LOOKS:
            history.append(distances(model.eval(), grammar, validation, step))
    return model, history


def windows_of(grammar: Grammar, text: Text) -> np.ndarray:
    """The places of sentences with a word before them and a whole window after them."""
    starts = sentence_starts(grammar, text)
    return starts[(starts > 0) & (starts + CONTEXT <= len(text.words))]


def distances(model, grammar: Grammar, text: Text, step: int) -> Distances:
    """How far the model's distributions q are from those of the grammar, p, where both read the
    same words.
    """
    places = windows_of(grammar, text)[::10, None] + np.arange(CONTEXT)  # (B, T), targets
    log_q = log_softmax(model.forward(text.words[places - 1]))  # (B, T, V)
    p = grammar.probabilities[text.symbols[places]]  # (B, T, V)
    log_p = np.log(np.where(p > 0, p, 1.0))
    loss, source = (-np.take_along_axis(x, text.words[places][..., None], -1).mean() for x in (log_q, log_p))
    entropy, divergence = -(p * log_p).sum(-1).mean(), (p * (log_p - log_q)).sum(-1).mean()
    return Distances(step, float(entropy), float(divergence), float(loss), float(source))


# ------------------------------------------------------------------------------------------------ tables and picture


def _table_of_beliefs(beliefs) -> Table:
    p = ", ".join(f"{count}/8" for count in TRUE)
    return Table(
        f"Four tokens that come with the probabilities {p}",
        ("the model predicts", "q", "entropy H(p)", "distance KL(p||q)", "engine's loss", "perplexity"),
        [
            (
                name,
                ", ".join(f"{count}/8" for count in BELIEFS[name]),
                f"{entropy:.4f}",
                f"{divergence:.4f}",
                f"{loss:.4f}",
                f"{math.exp(loss):.3f}",
            )
            for name, (entropy, divergence, loss) in beliefs.items()
        ],
    )


def _table_of_the_source(grammar, text, simple, history, floor) -> Table:
    losses = {
        "nothing: all words equally likely": math.log(len(grammar.words)),
        "how often each word comes": simple["words alone"],
        "and the word before": simple["the word before"],
    }
    rows = [(name, f"{loss:.4f}", f"{math.exp(loss):.3f}", f"{loss - floor:.4f}") for name, loss in losses.items()]
    for at in (at for at in history if at.step in SHOWN):
        rows.append((f"a GPT after {at.step} steps", *_above_the_floor(at, floor)))
    rows.append(("the grammar itself, computed", f"{floor:.4f}", f"{math.exp(floor):.3f}", "0"))
    beginning = " ".join(grammar.words[word] for word in text.words[:QUOTED])
    return Table(
        f'"{beginning} ...": the loss of a model that knows',
        ("", "nats a word", "perplexity", "above the floor"),
        rows,
    )


def _above_the_floor(at: Distances, floor: float) -> tuple[str, str, str]:
    """Loss, perplexity and distance; the loss is the floor plus KL, which does not depend on the
    words drawn.
    """
    loss = floor + at.divergence
    return f"{loss:.4f}", f"{math.exp(loss):.3f}", f"{at.divergence:.4f}"


def _draw(figure, grammar, model, history, simple, floor) -> None:
    left, right = figure.subplots(1, 2)
    left.plot([at.step for at in history], [floor + at.divergence for at in history], marker="o", label="the model")
    left.axhline(math.log(len(grammar.words)), color="0.7", linestyle=":", label="all words equally likely")
    left.axhline(simple["words alone"], color="C1", linestyle="--", label="knows how often each word comes")
    left.axhline(simple["the word before"], color="C2", linestyle="--", label="knows the word before")
    left.axhline(floor, color="k", label=f"floor: the grammar's entropy, {floor:.3f}")
    left.fill_between([0, STEPS], 0, floor, color="0.9")
    left.set_xscale("symlog", linthresh=5)
    left.set_xticks([0, 5, 10, 30, 100, 300, STEPS], ["0", "5", "10", "30", "100", "300", str(STEPS)])
    left.set(xlabel="step", ylabel="cross-entropy (nats a word)", ylim=(0, None), xlim=(0, STEPS))
    left.legend(loc="lower left", fontsize="small")
    perplexity = left.secondary_yaxis("right", functions=(np.exp, lambda k: np.log(np.maximum(k, 1e-9))))
    perplexity.set(ylabel="perplexity", yticks=[1, 2, 3, 5, 10, 20], yticklabels=["1", "2", "3", "5", "10", "20"])

    prefix = np.array([[grammar.words.index(word) for word in PREFIX.split()]])
    q = softmax(model.next_token_logits(prefix))[0]
    p = grammar.probabilities[grammar.symbols.index("VERB")]
    places = np.arange(len(grammar.words))
    right.barh(places - 0.2, p, 0.4, color="k", label="the grammar")
    right.barh(places + 0.2, q, 0.4, label="the model")
    right.set_yticks(places, grammar.words, fontsize="x-small")
    right.set(xlabel="probability of the next word", title=f'after "{PREFIX[2:]}"')
    right.invert_yaxis()
    right.legend()


LESSON = Lesson(
    title="Cross-entropy and perplexity: the distance from the truth, and the floor below it",
    claim="Cross-entropy is the entropy of the source plus the model's distance from it. A model that is unsure "
    "between k equal choices has perplexity k. Training comes within 0.01 nats of the entropy of a known source, and "
    "not below.",
    idea="The loss of a language model is the mean of -log q, q being the probability that it gave to the token that "
    "came. It is measured in nats (bits, if the logarithm is to base 2); its exponential, the perplexity, counts "
    "equally likely choices. It cannot reach zero, because a text is not fully predictable: even a perfect model has a "
    "loss, the entropy of the text's source. For English that number is unknown. So here a small grammar with random "
    "probabilities writes the text, its entropy is computed, and a small GPT learns from the text alone.",
    measure=measure,
    seconds=8,
    commands=(
        "minillm train --data python-docs --max-steps 200    # loss and perplexity; here the floor is not known",
        "minillm evaluate MODEL --data python-docs            # the same for the lessons' model",
    ),
    read=("minillm/layers/cross_entropy.py", "minillm/lessons/grammar.py", "minillm/lessons/cross_entropy.py"),
)
