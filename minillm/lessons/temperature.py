"""Lesson: temperature.

    p_i(T) = exp(l_i / T) / sum_j exp(l_j / T)

This is the Boltzmann distribution of energies -l_i (Ackley, Hinton, Sejnowski, 1985). Its entropy
grows with T: dH/dT = Var(l) / T^3 under p(T), which is at least 0. As T -> 0 all of the probability
goes to the largest logit; as T -> infinity it is shared equally, and H = log V.
"""

from __future__ import annotations

import numpy as np

from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import small_model
from minillm.sampler import Sampler
from minillm.sampler.probability import entropy

TEMPERATURES = (0.1, 0.3, 0.7, 1.0, 1.5, 3.0, 10.0)
NEARLY_NONE, NEARLY_INFINITE = 1e-6, 1e6
DRAWS = 1000
SHOWN = 6  # likeliest tokens


def measure(sentence: str) -> Measured:
    """The next token's distribution after a sentence at several temperatures, and draws from it."""
    model, tokenizer, _, _ = small_model()
    logits = model.next_token_logits(np.array([tokenizer.encode(sentence)]))  # (1, V)
    vocabulary = logits.shape[1]
    distributions = {t: Sampler(temperature=t).probabilities(logits)[0] for t in TEMPERATURES}
    entropies = {t: entropy(p) for t, p in distributions.items()}
    likeliest = np.argsort(-logits[0], kind="stable")[:SHOWN]

    drawn = Sampler(seed=1).sample(np.repeat(logits, DRAWS, axis=0))  # each row has its own random number
    counts = np.bincount(drawn, minlength=vocabulary)
    statistic, bound = chi_squared(counts, distributions[1.0])

    coldest = Sampler(temperature=NEARLY_NONE).probabilities(logits)[0]
    greedy = Sampler(temperature=0).probabilities(logits)[0]
    hottest = Sampler(temperature=NEARLY_INFINITE).probabilities(logits)[0]
    cold_error, hot_error = np.abs(coldest - greedy).max(), np.abs(hottest - 1 / vocabulary).max() * vocabulary
    rising = all(np.diff(list(entropies.values())) > 0)
    return Measured(
        tables=[
            Table(
                f'The next token after "{sentence}"',
                ("temperature", "entropy, nats", "choices", *(repr(tokenizer.decode([i])) for i in likeliest)),
                [
                    (
                        f"{t:g}",
                        f"{entropies[t]:.3f}",
                        f"{np.exp(entropies[t]):.1f}",
                        *(f"{p[i]:.1%}" for i in likeliest),
                    )
                    for t, p in distributions.items()
                ],
            )
        ],
        findings=[
            Finding(f"entropy rises from {entropies[0.1]:.3f} nats at 0.1 to {entropies[10.0]:.3f} at 10", rising),
            Finding(
                f"{DRAWS:,} draws at 1 fit the probabilities: chi-squared {statistic:.1f}, "
                f"a fair sampler stays below {bound:.1f} in 999 of 1,000 cases",
                statistic < bound,
            ),
            Finding(f"at {NEARLY_NONE:g} it is greedy (largest difference {cold_error:.1e})", cold_error < 1e-6),
            Finding(
                f"at {NEARLY_INFINITE:g} all {vocabulary} tokens are equally likely (relative difference "
                f"{hot_error:.1e})",
                hot_error < 1e-3,
            ),
        ],
        draw=lambda figure: _draw(figure, entropies, vocabulary, counts, distributions[1.0], likeliest, tokenizer),
        figures={f"entropy at {t:g}": float(h) for t, h in entropies.items()}
        | {"chi-squared": statistic, "bound": bound, "cold error": float(cold_error), "hot error": float(hot_error)},
    )


def chi_squared(counts, p, least: float = 5.0) -> tuple[float, float]:
    """Pearson's statistic of counts (V,) against probabilities (V,), and its bound for a fair
    sampler.

    Tokens expected fewer than `least` times are counted together. The bound is that of Wilson and
    Hilferty (1931): (X/k)^(1/3) is nearly normal with mean 1 - 2/(9k) and variance 2/(9k); 3.09
    standard deviations are exceeded in 1 of 1,000 cases.
    """
    expected = counts.sum() * np.asarray(p, np.float64)
    often = expected >= least
    seen, rare = counts[often], ~often & (np.asarray(p) > 0)
    if rare.any():
        seen = np.append(seen, counts[rare].sum())
    expected = np.append(expected[often], expected[rare].sum()) if rare.any() else expected[often]
    k = len(seen) - 1
    bound = k * (1 - 2 / (9 * k) + 3.09 * np.sqrt(2 / (9 * k))) ** 3
    return float(np.sum((seen - expected) ** 2 / expected)), float(bound)


def _draw(figure, entropies, vocabulary, counts, p, likeliest, tokenizer) -> None:
    left, right = figure.subplots(1, 2)
    left.semilogx(list(entropies), list(entropies.values()), marker="o")
    left.axhline(np.log(vocabulary), color="0.6", linestyle="--", label=f"log {vocabulary}: all equal")
    left.set(xlabel="temperature", ylabel="entropy (nats)", ylim=(0, None))
    left.legend()
    places = np.arange(len(likeliest))
    right.bar(places - 0.2, counts[likeliest] / counts.sum(), 0.4, label=f"{counts.sum():,} draws")
    right.bar(places + 0.2, p[likeliest], 0.4, label="probability")
    labels = [repr(tokenizer.decode([i])).replace("$", r"\$") for i in likeliest]  # $...$ would be a formula
    right.set_xticks(places, labels, rotation=30, ha="right", rotation_mode="anchor")
    right.set(title="temperature 1: draws and probabilities", ylabel="share")
    right.legend()


LESSON = Lesson(
    title="Temperature: the same model, timid or wild",
    claim="Dividing the logits by a temperature moves the model's choice between always taking the likeliest token (0) "
    "and taking any token (infinity). The entropy rises all the way, and the drawn tokens follow the probabilities.",
    idea="A model gives every token a score, its logit. The softmax turns scores into probabilities, and a temperature "
    "divides the scores before that. Only differences between scores count, so a small temperature makes them large "
    "and one token win. The entropy says how uncertain the choice is; its exponential is a number of equally likely "
    "choices.",
    measure=measure,
    commands=(
        'minillm lesson temperature --text "If the"',
        'minillm generate MODEL --prompt "The" --temperature 0.3     # then 1.0, then 2.0',
    ),
    read=("minillm/sampler/sampler.py", "minillm/sampler/draw.py"),
    sentence="The value of the",
)
