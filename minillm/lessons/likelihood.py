"""Lesson: likelihood.

A model of parameters w gives every token of a text a probability, given those before it. By the
chain rule of probability the product is the probability of the text, and its logarithm a sum:

    log p(x_1 ... x_N) = sum_n log p(x_n | x_1 ... x_(n-1))

Training maximises it (Fisher, 1922: "maximum likelihood"). For one position with the logits z,

    d log p_t / dz_j = onehot(t)_j - p_j

so that a step along this gradient raises the logit of the token that came and lowers all others,
each in proportion to its probability. For the mean L of -log p over a text, with the gradient g, a
step changes L by

    L(w - eta g) - L(w) = -eta |g|^2 + O(eta^2)

To first order the loss never rises.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.data import load_text, sequential_windows, split_text
from minillm.errors import UserError
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import CORPUS, TRAINING, small_model
from minillm.optim.global_norm import global_norm
from minillm.sampler.probability import log_softmax

START = "\n"  # put before the sentence, so that its first token is predicted as well
HELD_OUT_WINDOWS, WINDOWS_AT_ONCE = 64, 16
STEP = 1e-4  # eta of the single step: small, so that the first order dominates


class Belief(NamedTuple):
    """A model's probabilities of the tokens that came, and their ranks (1 is the likeliest), both
    (N,).
    """

    probabilities: np.ndarray
    ranks: np.ndarray


def measure(sentence: str) -> Measured:
    """The probabilities of a sentence's tokens before and after training, and of a text not learned
    from.
    """
    model, tokenizer, untrained, _ = small_model()
    ids = np.array(tokenizer.encode(START) + tokenizer.encode(sentence))
    check_length(ids, model.config.context_length)
    before, after = (believe(each, ids[None, :-1], ids[None, 1:]) for each in (untrained, model))
    tokens = [repr(tokenizer.decode([token])) for token in ids[1:]]
    predicted, changed = one_step(ids[None, :-1], ids[None, 1:])
    held_out = np.array(tokenizer.encode(split_text(load_text([CORPUS]))[1]))
    unseen_before, unseen_after = (believe_text(each, held_out) for each in (untrained, model))
    figures = {
        "log-likelihood before": float(np.log(before.probabilities).sum()),
        "log-likelihood after": float(np.log(after.probabilities).sum()),
        "unseen": float(len(unseen_after)),
        "risen": float((unseen_after > unseen_before).mean()),
        "mean before": float(np.exp(np.log(unseen_before).mean())),
        "mean after": float(np.exp(np.log(unseen_after).mean())),
        "predicted": predicted,
        "changed": changed,
    }
    return Measured(
        tables=[_table(sentence, tokens, before, after)],
        findings=_findings(figures),
        draw=lambda figure: _draw(figure, tokens, before, after, unseen_before, unseen_after, model.config.vocab_size),
        figures=figures,
    )


def _findings(figures) -> list[Finding]:
    f = figures
    gained = f["log-likelihood after"] - f["log-likelihood before"]
    return [
        Finding(
            f"the log-likelihood of the sentence rises from {f['log-likelihood before']:.1f} to "
            f"{f['log-likelihood after']:.1f}: it is e^{gained:.1f} times as likely",
            gained > 0,
        ),
        Finding(
            f"of {f['unseen']:,.0f} tokens that training has not seen, {f['risen']:.0%} become likelier; their "
            f"geometric mean rises from {f['mean before']:.2%} to {f['mean after']:.1%}",
            f["risen"] > 0.6 and f["mean after"] > 5 * f["mean before"],
        ),
        Finding(
            "one small step along the gradient of this sentence, from the first weights, changes its mean "
            f"log-likelihood by {f['changed']:+.6f}; step size times |gradient|^2 is {f['predicted']:+.6f}",
            abs(f["changed"] / f["predicted"] - 1) < 0.02,
        ),
    ]


def _table(sentence, tokens, before, after) -> Table:
    return Table(
        f'"{sentence}", token by token',
        ("token", "before", "after", "times", "rank before", "rank after"),
        [
            (token, f"{p:.2%}", f"{q:.2%}", f"{q / p:.3g}", str(rank), str(new_rank))
            for token, p, q, rank, new_rank in zip(
                tokens, before.probabilities, after.probabilities, before.ranks, after.ranks
            )
        ],
    )


def check_length(ids, context_length: int) -> None:
    """Raises UserError for a sentence longer than the model's context."""
    if len(ids) - 1 > context_length:
        raise UserError(
            f"the sentence has {len(ids) - 1} tokens, the lessons' model reads {context_length} at once: shorten --text"
        )


def believe(model, inputs, targets) -> Belief:
    """inputs and targets (B, T)  ->  the probabilities of the targets, and their ranks, (B * T,)"""
    log_p = log_softmax(model.forward(inputs))  # (B, T, V)
    at_target = np.take_along_axis(log_p, targets[..., None], -1)  # (B, T, 1)
    return Belief(np.exp(at_target).ravel(), 1 + (log_p > at_target).sum(axis=-1).ravel())


def believe_text(model, tokens) -> np.ndarray:
    """The probabilities of the tokens in some windows of a text (N,), in one array."""
    windows = sequential_windows(tokens, WINDOWS_AT_ONCE, model.config.context_length, HELD_OUT_WINDOWS)
    return np.concatenate([believe(model, *window).probabilities for window in windows])


def one_step(inputs, targets) -> tuple[float, float]:
    """How much one step of gradient descent changes the mean log-likelihood: predicted, and
    measured.

    The model is the untrained one, in float64 because the two numbers are close.
    """
    small = small_model()
    model = type(small.untrained)(small.untrained.config, seed=TRAINING.seed, dtype="float64")
    before = float(model.loss(inputs, targets))
    model.backward()
    parameters = model.parameters()
    predicted = STEP * global_norm(parameter.grad for parameter in parameters.values()) ** 2
    for parameter in parameters.values():
        parameter.value -= STEP * parameter.grad
    return predicted, before - float(model.eval().loss(inputs, targets))


def _draw(figure, tokens, before, after, unseen_before, unseen_after, vocabulary) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.arange(len(tokens))
    left.bar(places - 0.2, before.probabilities, 0.4, color="0.7", label="before training")
    left.bar(places + 0.2, after.probabilities, 0.4, label="after")
    left.axhline(1 / vocabulary, color="k", linestyle=":", linewidth=1, label=f"1/{vocabulary}: all equal")
    left.set(yscale="log", ylabel="probability of the token that came", ylim=(None, 1))
    labels = [token.replace("$", r"\$") for token in tokens]  # a pair of dollar signs would be a formula
    left.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize="small", frameon=False)
    edges = np.logspace(-6, 0, 37)
    right.hist(unseen_before, edges, color="0.7", label="before training")
    right.hist(unseen_after, edges, alpha=0.8, label="after")
    right.set(xscale="log", xlabel="probability of the token that came", ylabel="tokens", title="text not learned from")
    right.legend(loc="upper left", fontsize="small")


LESSON = Lesson(
    title="Likelihood: training raises the probability of the token that comes next",
    claim="Training makes the tokens that really come next likelier, in a sentence like those that it learned from and "
    "in a text that it has not seen. A small step raises the log-likelihood by its size times the squared length of "
    "the gradient.",
    idea="A language model reads some tokens and gives every token of its vocabulary a probability of being the next "
    "one. To an untrained model all of them are nearly equally likely. The product of the probabilities of the tokens "
    "that really came is the likelihood of the text, and its logarithm is a sum with a term for each token. Training "
    "makes this sum larger. The probabilities add up to 100 %: what one token gains the others lose, and the model "
    "must learn which.",
    measure=measure,
    commands=(
        'minillm lesson likelihood --text "The function returns a list of strings."',
        'minillm lesson likelihood --text "a string lists function the of returns."    # the same words, shuffled',
        "minillm evaluate MODEL --data python-docs    # the mean of -log p over a whole text, and its perplexity",
    ),
    read=("minillm/layers/cross_entropy.py", "minillm/models/language_model.py", "minillm/training/loop.py"),
    sentence="The value of the expression is an object.",
)
