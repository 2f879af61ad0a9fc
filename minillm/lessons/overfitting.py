"""Lesson: overfitting.

Training lowers the loss on the training text. The aim is a low loss on new text, which the
validation text represents. The two losses separate when a model has the capacity to memorise the
training text; their difference is the generalisation gap. Four remedies, and their sources:

    early stopping   keep the model that was best on the validation text
                     (Morgan, Bourlard, 1989; Prechelt, 1998)
    dropout          set each activation to zero with probability p in training, so that the model
                     cannot rely on any one of them
                     (Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, 2014)
    weight decay     shrink all weights a little in each step: memorising needs large weights
                     (Krogh, Hertz, 1992)
    more text        a text that is read only a few times cannot be memorised
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import random_windows
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.letters import ALPHABET, reference_letters
from minillm.lessons.small_training import training
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.optim import AdamW, make_schedule
from minillm.training.evaluation import evaluate

LETTERS, MORE = 3_000, 60_000  # letters of the training text
WINDOWS, CONTEXT = 16, 32  # in a batch, and letters in a window
STEPS, EVERY = 400, 20  # steps, and steps between evaluations
LEARNING_RATE, WARMUP_STEPS = 3e-3, 20
EVALUATED = 128  # windows of each text
PATIENCE = 4  # evaluations without an improvement, after which early stopping stops
DROPOUT, DECAY = 0.3, 3.0
SEED = 1


class Evaluated(NamedTuple):
    """Mean losses in nats a letter after `step` steps."""

    step: int
    training: float
    validation: float


def measure() -> Measured:
    """Train a small model on a small text, without a remedy and with each of them."""
    learned, validated = reference_letters()
    histories = {
        "none": learn(learned[:LETTERS], validated),
        "dropout": learn(learned[:LETTERS], validated, dropout=DROPOUT),
        "weight decay": learn(learned[:LETTERS], validated, decay=DECAY),
        "more text": learn(learned[:MORE], validated),
    }
    stopped, stopped_at = stop_early(histories["none"])
    ends = {name: (best(history), history[-1]) for name, history in histories.items()} | {
        "early stopping": (stopped, stopped)
    }
    figures = {"stopped at": float(stopped_at)}
    for name, (lowest, last) in ends.items():
        figures |= {
            f"{name}: best": math.exp(lowest.validation),
            f"{name}: best step": float(lowest.step),
            f"{name}: last": math.exp(last.validation),
            f"{name}: training": math.exp(last.training),
            f"{name}: training at best": math.exp(lowest.training),
            f"{name}: gap": last.validation - last.training,
        }
    return Measured(
        tables=[_table(ends)],
        findings=_findings(figures),
        draw=lambda figure: _draw(figure, histories, stopped_at),
        figures=figures,
    )


def _table(ends) -> Table:
    descriptions = {
        "none": "none",
        "early stopping": f"early stopping, patience {PATIENCE}",
        "dropout": f"dropout {DROPOUT:g}",
        "weight decay": f"weight decay {DECAY:g}",
        "more text": f"{MORE // LETTERS} times as much text",
    }
    return Table(
        f"Perplexities after {STEPS} steps on {LETTERS:,} letters",
        ("remedy", "validation, best", "at step", "validation, last", "training, last", "gap, nats"),
        [
            (
                description,
                f"{math.exp(lowest.validation):.2f}",
                str(lowest.step),
                f"{math.exp(last.validation):.2f}",
                f"{math.exp(last.training):.2f}",
                f"{last.validation - last.training:.2f}",
            )
            for name, description in descriptions.items()
            for lowest, last in [ends[name]]
        ],
    )


def _findings(figures) -> list[Finding]:
    f = figures
    rivals = ("none", "dropout", "weight decay")
    findings = [
        Finding(
            f"without a remedy validation perplexity falls to {f['none: best']:.2f} at step {f['none: best step']:.0f} "
            f"and rises to {f['none: last']:.2f}, while training perplexity keeps falling, from "
            f"{f['none: training at best']:.2f} to {f['none: training']:.2f}",
            f["none: last"] > 1.15 * f["none: best"] and f["none: training"] < f["none: training at best"] / 1.5,
        ),
        Finding(
            f"early stopping ends at step {f['stopped at']:.0f} of {STEPS} and keeps the model of step "
            f"{f['early stopping: best step']:.0f}: {f['early stopping: best']:.2f}, "
            f"{_against(f, 'early stopping: best')}",
            f["early stopping: best"] < f["none: last"] / 1.1 and f["stopped at"] < STEPS,
        ),
    ]
    for name in rivals[1:]:
        findings.append(
            Finding(
                f"{name} ends at {f[f'{name}: last']:.2f}, {_against(f, f'{name}: last')}; its best is "
                f"{f[f'{name}: best']:.2f}, and without a remedy {f['none: best']:.2f}",
                f[f"{name}: last"] < f["none: last"] / 1.1,
            )
        )
    gaps = [f[f"{name}: gap"] for name in rivals]
    findings.append(
        Finding(
            f"{MORE // LETTERS} times as much text helps most: {f['more text: best']:.2f}, the lowest, and a gap of "
            f"{f['more text: gap']:.2f} nats, where the others end with {min(gaps):.2f} to {max(gaps):.2f}",
            f["more text: best"] < 0.9 * min(f[f"{name}: best"] for name in rivals) and f["more text: gap"] < min(gaps),
        )
    )
    return findings


def _against(figures, name: str) -> str:
    """How much lower than the last perplexity without a remedy."""
    return f"{1 - figures[name] / figures['none: last']:.0%} below the end without a remedy"


def learn(learned, validated, dropout: float = 0.0, decay: float = 0.0) -> list[Evaluated]:
    """Train on the letters `learned` (N,); evaluate on both texts every EVERY steps."""
    config = GPT2Config(len(ALPHABET), CONTEXT, n_layer=2, n_head=4, d_model=64, dropout=dropout, bias=False)
    model = GPT2(config, seed=SEED)
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=decay)
    schedule = make_schedule("constant", LEARNING_RATE, STEPS, WARMUP_STEPS)
    history = []

    def batch(step):
        return random_windows(learned, WINDOWS, CONTEXT, stream(SEED, "batch", step))

    for step in training(model, optimizer, batch, schedule, STEPS, SEED):
        if step % EVERY == 0:
            model.eval()
            losses = (evaluate(model.loss, text, EVALUATED, CONTEXT, EVALUATED).loss for text in (learned, validated))
            history.append(Evaluated(step, *map(float, losses)))
    return history


def best(history: list[Evaluated]) -> Evaluated:
    """The evaluation with the lowest validation loss."""
    return min(history, key=lambda evaluated: evaluated.validation)


def stop_early(history: list[Evaluated], patience: int = PATIENCE) -> tuple[Evaluated, int]:
    """The evaluation whose model would be kept, and the step at which training would end.

    >>> history = [Evaluated(step, 0.0, loss) for step, loss in enumerate([3.0, 2.0, 2.5, 2.6, 1.0])]
    >>> stop_early(history, patience=2)
    (Evaluated(step=1, training=0.0, validation=2.0), 3)
    """
    for index in range(len(history)):
        kept = best(history[: index + 1])
        if history.index(kept) + patience <= index:
            return kept, history[index].step
    return best(history), history[-1].step


def _draw(figure, histories, stopped_at: int) -> None:
    figure.set_size_inches(11, 5.5)
    left, right = figure.subplots(1, 2, sharey=True)
    epochs = WINDOWS * CONTEXT / LETTERS  # in a step
    steps, training_losses, validation_losses = zip(*histories["none"])
    at, low, high = np.array(steps) * epochs, np.exp(training_losses), np.exp(validation_losses)
    left.plot(at, high, color="C3", label="validation text")
    left.plot(at, low, color="C0", label="training text")
    left.fill_between(at, low, high, color="C3", alpha=0.12, label="gap")
    left.plot(best(histories["none"]).step * epochs, high.min(), "k*", markersize=10, label="best model")
    left.axvline(stopped_at * epochs, color="0.4", linestyle=":", label="early stopping ends here")
    left.set(xlabel="times that the text was read (epochs)", ylabel="perplexity", title="no remedy", yscale="log")
    left.set_yticks([2, 3, 5, 7, 10, 15, 20, 27], ["2", "3", "5", "7", "10", "15", "20", "27"])
    left.minorticks_off()
    below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize="small", frameon=False)
    left.legend(**below)
    names = ("none", f"dropout {DROPOUT:g}", f"weight decay {DECAY:g}", f"{MORE // LETTERS} times as much text")
    for history, name, color in zip(histories.values(), names, ("C3", "C1", "C2", "C4")):
        right.plot([at.step for at in history], [math.exp(at.validation) for at in history], color=color, label=name)
        right.plot(best(history).step, math.exp(best(history).validation), "*", color=color, markersize=10)
    right.set(xlabel="step", ylabel="perplexity", title="validation text, by remedy (star: best)")
    right.tick_params(labelleft=True)
    right.legend(**below)


LESSON = Lesson(
    title="Overfitting: better on what was read, worse on what was not",
    claim="A model that reads a small text again and again gets better on it to the end, but on other text it gets "
    "worse after a while. Early stopping, dropout and weight decay each reduce that; here more text helps most.",
    idea="Training lowers the loss on its own text alone. A small text can be learned by heart, and what is learned by "
    "heart does not help elsewhere. So a part of the text, the validation text, is set aside and never learned from. "
    "The difference between the two losses is the gap. Here a GPT of 100,000 weights reads 3,000 letters about 70 "
    "times (a to z and the space: a model that knows nothing has perplexity 27).",
    measure=measure,
    commands=(
        'python -c "from minillm.data import load_text; '
        "open('small.txt', 'w', encoding='utf-8').write(load_text(['python-docs'])[:20000])\"",
        "minillm train --data small.txt --max-steps 400 --eval-interval 40 --out runs/small    # a line says when it "
        "overfits",
        "minillm train --data small.txt --max-steps 400 --eval-interval 40 --early-stop 3 --dropout 0.3 --out "
        "runs/remedies    # ends with a far lower validation loss than the first run; its best is hardly better",
        "minillm train --max-steps 400 --eval-interval 40 --out runs/more    # 25 times the text",
    ),
    seconds=15,
    read=("minillm/lessons/overfitting.py", "minillm/layers/dropout.py", "minillm/training/overfitting.py"),
)
