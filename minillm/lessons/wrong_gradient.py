"""Lesson: a wrong gradient trains, too.

The gradient of layer norm has three terms (layers/layer_norm.py derives them). With g = dL/dn and n
the normed vector:

    dx_i = rstd (g_i - 1/C sum_j g_j - n_i 1/C sum_j g_j n_j)

Here the second one, the mean of g, is left out in every norm of a GPT. What remains still points
downhill, roughly: the loss falls from step to step, and nothing in its curve says that a line of
code is wrong. It ends higher, but without the right curve beside it there is nothing to compare it
with. Finite differences tell in a moment: they compare each number of dx with what the loss
does when x changes, and know nothing of the derivation.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks.gradcheck import TOLERANCE, GradientError, Report, gradcheck
from minillm.data import encode_data, load_text, random_windows, split_text
from minillm.layers.layer_norm import LayerNorm
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import CORPUS, MODEL, small_model
from minillm.lessons.small_training import training
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.optim import AdamW, make_schedule
from minillm.training.evaluation import evaluate

WINDOWS = 8  # in a batch
STEPS, EVERY = 200, 20  # steps, and steps between evaluations
LEARNING_RATE, WARMUP_STEPS = 1e-3, 20
EVALUATED = 32  # windows of the validation text
SEED, OTHER_SEED = 1, 2
CHECKED = (3, 16)  # the shape of x in the gradient check


class WithoutMean(LayerNorm):
    """A layer norm whose backward lacks the mean of g: dx = rstd (g - n 1/C sum_j g_j n_j)."""

    def backward(self, dy, dsum=None):
        """dy (..., C)  ->  dx (..., C), wrong; the gradients of weight and bias are right."""
        of_operation, saved = self.take_saved()
        self.save_for_backward((of_operation, saved))  # for the layer's own backward
        g = dy * self.weight.value
        rstd = saved.rstd.reshape(*dy.shape[:-1], 1)
        return super().backward(dy, dsum) + rstd * g.mean(axis=-1, keepdims=True)  # the term, put back


class WrongGPT2(GPT2):
    """A GPT-2 with such norms: forward is that of GPT-2, backward is not."""

    def _make_norm(self) -> WithoutMean:
        norm = super()._make_norm()
        return WithoutMean(norm.weight.value, norm.bias.value if hasattr(norm, "bias") else None, norm.eps)


class Checked(NamedTuple):
    """A gradient check of a norm: the largest error of each tensor, and the seconds it took."""

    errors: dict[str, float]
    verdict: str
    numbers: int
    seconds: float

    @property
    def worst(self) -> float:
        return max(self.errors.values())


def measure() -> Measured:
    """Train with the right and with the wrong gradient, and check both."""
    text = tuple(map(_ids, split_text(load_text([CORPUS]))))
    histories = {
        "right": learn(GPT2, *text),
        "without mean": learn(WrongGPT2, *text),
        "another seed": learn(GPT2, *text, seed=OTHER_SEED),
    }
    checks = {"right": check(LayerNorm), "without mean": check(WithoutMean)}
    figures = figures_of(histories, checks)
    return Measured(
        tables=[_training_table(histories), _check_table(checks)],
        findings=findings_of(figures),
        draw=lambda figure: _draw(figure, histories, checks),
        figures=figures,
    )


def learn(kind: type[GPT2], learned, validated, seed: int = SEED) -> list[float]:
    """Train on the tokens `learned` (N,); the validation loss in nats a token every EVERY steps."""
    config = GPT2Config(small_model().model.config.vocab_size, **MODEL)
    model, length = kind(config, seed=seed), config.context_length
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    schedule = make_schedule("constant", LEARNING_RATE, STEPS, WARMUP_STEPS)
    history = []

    def batch(step):
        return random_windows(learned, WINDOWS, length, stream(seed, "batch", step))

    for step in training(model, optimizer, batch, schedule, STEPS, seed):
        if step % EVERY == 0:
            loss = evaluate(model.eval().loss, validated, EVALUATED, length, EVALUATED).loss
            history.append(float(loss))
    return history


def check(kind: type[LayerNorm]) -> Checked:
    """Compare the gradients of a norm with finite differences, number by number."""
    numbers, started = stream(SEED, "check"), time.perf_counter()
    x, weight, bias = (numbers.normal(shape) for shape in (CHECKED, CHECKED[1:], CHECKED[1:]))
    try:
        report = gradcheck(kind(weight, bias), x, input_names=["x"], progress=False)
    except GradientError as error:
        report = error.report
    return Checked(_errors(report), report.verdict, x.size + weight.size + bias.size, time.perf_counter() - started)


def _errors(report: Report) -> dict[str, float]:
    return {row.tensor: float(row.error) for row in report.rows}


def _ids(text: str) -> np.ndarray:
    return np.asarray(encode_data(small_model().tokenizer, text, ""))


# ------------------------------------------------------------------------------------------------- what they show


def figures_of(histories: dict[str, list[float]], checks: dict[str, Checked]) -> dict[str, float]:
    """The numbers of the findings: losses in nats a token, perplexities, and relative errors."""
    right, wrong, other = (np.array(history) for history in histories.values())
    return {
        "right: perplexity": math.exp(right[-1]),
        "wrong: perplexity": math.exp(wrong[-1]),
        "other: perplexity": math.exp(other[-1]),
        "wrong: first": float(wrong[0]),
        "wrong: last": float(wrong[-1]),
        "wrong: largest rise": float(np.diff(wrong).max()),
        "right: fall": float(right[0] - right[-1]),
        "apart at most": float(np.abs(wrong - right).max()),
        "seeds apart at most": float(np.abs(other - right).max()),
        "evaluations": float(len(wrong) - 1),
        "behind": float((wrong > right).sum()),
        "right: error": checks["right"].worst,
        "wrong: error": checks["without mean"].worst,
        "wrong: other errors": max(error for name, error in checks["without mean"].errors.items() if name != "x"),
        "numbers": float(checks["right"].numbers),
    }


def findings_of(f: dict[str, float]) -> list[Finding]:
    """Each can fail: with these figures or others."""
    return [
        Finding(
            f"the wrong gradient trains: in {STEPS} steps the validation loss falls from {f['wrong: first']:.2f} to "
            f"{f['wrong: last']:.2f} nats, without a jump",
            f["wrong: last"] < f["wrong: first"] - 1 and f["wrong: largest rise"] < 0.05,
        ),
        Finding(
            f"its curve looks like any other: never farther than {f['apart at most']:.2f} nats from the right one, which "
            f"falls by {f['right: fall']:.2f}; another seed moves it by up to {f['seeds apart at most']:.2f}",
            f["apart at most"] < f["right: fall"] / 6,
        ),
        Finding(
            f"it costs: perplexity {f['wrong: perplexity']:.2f} where it would be {f['right: perplexity']:.2f} (with "
            f"another seed {f['other: perplexity']:.2f}), and behind at {f['behind']:.0f} of "
            f"{f['evaluations']:.0f} evaluations",
            f["wrong: perplexity"] > f["right: perplexity"] and f["behind"] >= 0.8 * f["evaluations"],
        ),
        Finding(
            f"the gradient check of one norm, {f['numbers']:.0f} numbers, tells them apart: an error of "
            f"{f['wrong: error']:.1g} in x against {f['right: error']:.0e} (allowed are {TOLERANCE:.0e}); weight and bias "
            f"are right in both, {f['wrong: other errors']:.0e}",
            f["right: error"] <= TOLERANCE and f["wrong: error"] > 1e-3 and f["wrong: other errors"] <= TOLERANCE,
        ),
    ]


def _training_table(histories) -> Table:
    steps = range(0, STEPS + 1, 2 * EVERY)
    return Table(
        "Validation loss in nats a token, and perplexity at the end",
        ("gradient", *(f"step {step}" for step in steps), "perplexity"),
        [
            (name, *(f"{history[step // EVERY]:.2f}" for step in steps), f"{math.exp(history[-1]):.2f}")
            for name, history in histories.items()
        ],
    )


def _check_table(checks: dict[str, Checked]) -> Table:
    return Table(
        "Largest relative error of each gradient against finite differences",
        ("gradient", *checks["right"].errors, "verdict", "seconds"),
        [
            (name, *(f"{error:.0e}" for error in each.errors.values()), each.verdict, f"{each.seconds:.2f}")
            for name, each in checks.items()
        ],
    )


def _draw(figure, histories, checks) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for (name, history), color, style in zip(histories.items(), ("C0", "C3", "0.7"), ("-", "-", "--")):
        steps = np.arange(len(history)) * EVERY
        left.plot(steps, history, style, color=color, label=f"{name}: perplexity {math.exp(history[-1]):.1f}")
    left.set(xlabel="step", ylabel="validation loss, nats", title="which one is wrong?")
    left.legend()
    errors = [each.worst for each in checks.values()]
    bars = right.bar(list(checks), errors, color=("C0", "C3"))
    right.bar_label(bars, [f"{error:.0e}" for error in errors])
    right.axhline(TOLERANCE, color="0.4", linestyle=":", label=f"allowed: {TOLERANCE:.0e}")
    right.set(yscale="log", ylim=(1e-14, 1e4), ylabel="largest relative error", title="gradcheck")
    right.legend(loc="upper left")


LESSON = Lesson(
    title="A wrong gradient trains, too",
    claim="With one term left out of the gradient of layer norm a GPT still learns, and its loss curve does not say that "
    "anything is wrong. It ends worse than it should. A gradient check finds the fault at once.",
    idea="A step of training needs only a direction that leads downhill, and a wrong gradient often does. So a falling "
    "loss does not prove that backward is right. What it should be is known to the forward pass: change one number by a "
    "little, and see by how much the result changes. Here two GPTs get the same weights and the same batches; in one of "
    "them the norms leave out the mean of the gradient that arrives.",
    measure=measure,
    commands=(
        "minillm gradcheck layer_norm",
        "minillm lesson backpropagation    # what a mistake looks like in one number",
    ),
    seconds=25,
    read=("minillm/lessons/wrong_gradient.py", "minillm/layers/layer_norm.py", "minillm/checks/gradcheck.py"),
)
