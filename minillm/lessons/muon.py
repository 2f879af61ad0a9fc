"""Lesson: Muon.

The gradient of a matrix, taken apart into singular values, is g = sum_i s_i u_i v_i^T: the
direction u_i v_i^T of the weights, of length 1, times s_i. A few s_i are much larger than the
others, so a step along g is a step in a few directions. Muon steps along sum_i u_i v_i^T: as far in
each of them. It approximates this sum without singular values, by matrix products
(minillm/optim/muon.py).

Measured are the singular values of a real momentum before and after, and what a training gains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import random_windows
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.letters import ALPHABET, reference_letters
from minillm.lessons.small_training import training
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.optim import AdamW, Muon, make_schedule
from minillm.optim.muon import orthogonalised
from minillm.training.evaluation import evaluate

WINDOWS, CONTEXT = 12, 32  # in a batch, and letters in a window
STEPS, WARMUP_STEPS = 300, 20
LEARNING_RATES = {"AdamW": (3e-3, 6e-3, 1e-2), "Muon": (2e-2,)}
ADAMW_LR = 6e-3  # of what is no matrix
BETAS, DECAY = (0.9, 0.99), 0.1
EVERY, EVALUATED = 25, 192  # steps between evaluations, and windows of the validation text
FEWER = 0.75  # of AdamW's steps
SEED = 1
FLOOR = 0.002  # singular values of n / |n| from here on are brought near 1 by five steps
NEAR = 0.65, 1.21


class Trained(NamedTuple):
    """Validation losses in nats a letter, by step; and the momentum of a run of Muon, by name."""

    losses: dict[int, float]
    momentum: dict[str, np.ndarray]


def measure() -> Measured:
    """Singular values of the momentum before and after, and losses of Muon and AdamW by step."""
    learned, validated = reference_letters()
    runs = {(name, lr): learn(name, lr, learned, validated) for name, rates in LEARNING_RATES.items() for lr in rates}
    best = {
        name: min((lr for n, lr in runs if n == name), key=lambda lr: runs[name, lr].losses[STEPS])
        for name in LEARNING_RATES
    }
    muon, adamw = (runs[name, best[name]] for name in ("Muon", "AdamW"))
    spectra = {name: spectrum(n) for name, n in muon.momentum.items()}
    reached = min((step for step, loss in muon.losses.items() if loss <= adamw.losses[STEPS]), default=None)
    figures = {
        "most uneven": max(before[0] / np.median(before) for before, _, _ in spectra.values()),
        "least uneven": min(before[0] / np.median(before) for before, _, _ in spectra.values()),
        "smallest after": min(after[before >= FLOOR].min() for before, after, _ in spectra.values()),
        "largest after": max(after.max() for _, after, _ in spectra.values()),
        "least cosine": min(cosine for _, _, cosine in spectra.values()),
        "AdamW": adamw.losses[STEPS],
        "Muon": muon.losses[STEPS],
        "steps to AdamW's loss": reached or np.inf,
    }
    figures = {name: float(number) for name, number in figures.items()}
    return Measured(
        tables=[_table_of_spectra(spectra), _table_of_losses(adamw, muon)],
        findings=_findings(figures, best),
        draw=lambda figure: _draw(figure, spectra, runs, best),
        figures=figures,
    )


# ------------------------------------------------------------------------------------------------------ measurements


def learn(name: str, lr: float, learned, validated) -> Trained:
    """Train a small GPT-2 on the letters `learned` (N,) with "AdamW" or "Muon"."""
    config = GPT2Config(len(ALPHABET), CONTEXT, n_layer=2, n_head=4, d_model=64, bias=False)
    model = GPT2(config, seed=SEED)
    kind, more = (Muon, {"adamw_lr": ADAMW_LR}) if name == "Muon" else (AdamW, {})
    optimizer = kind(model.parameters(), lr=lr, betas=BETAS, weight_decay=DECAY, **more)
    schedule, losses = make_schedule("cosine", lr, STEPS, WARMUP_STEPS, lr / 10), {}

    def batch(step):
        return random_windows(learned, WINDOWS, CONTEXT, stream(SEED, "batch", step))

    for step, _ in enumerate(training(model, optimizer, batch, schedule, STEPS), start=1):
        if step % EVERY == 0:
            model.eval()
            losses[step] = float(evaluate(model.loss, validated, EVALUATED, CONTEXT, EVALUATED).loss)
            model.train()
    return Trained(losses, optimizer.state.get("momentum", {}))


def spectrum(n) -> tuple[np.ndarray, np.ndarray, float]:
    """Singular values of n / |n|, from the largest on; those of what Muon makes of it, in the same
    directions; and the cosine between that and U V^T.
    """
    u, before, v = np.linalg.svd(n / np.linalg.norm(n), full_matrices=False)
    made, exact = orthogonalised(n), u @ v
    after = np.einsum("oi,od,di->d", made, u, v)  # u_d^T made v_d: made has the same U and V
    cosine = float((made * exact).sum() / np.linalg.norm(made) / np.linalg.norm(exact))
    return before, after, cosine


# ------------------------------------------------------------------------------------------------------- what is shown


def _findings(figures: dict[str, float], best: dict[str, float]) -> list[Finding]:
    reached = figures["steps to AdamW's loss"]
    return [
        Finding(
            f"in every matrix the largest singular value is {figures['least uneven']:.1f} to "
            f"{figures['most uneven']:.1f} times the middle one",
            figures["least uneven"] > 2,
        ),
        Finding(
            f"five steps of matrix products bring all that are at least {FLOOR} of the norm into "
            f"{figures['smallest after']:.2f} to {figures['largest after']:.2f}",
            NEAR[0] < figures["smallest after"] and figures["largest after"] < NEAR[1],
        ),
        Finding(
            f"what comes out points along U V^T: the least cosine is {figures['least cosine']:.3f}",
            figures["least cosine"] > 0.95,
        ),
        Finding(
            f"after {STEPS} steps the validation loss is {figures['Muon']:.3f} with Muon, {figures['AdamW']:.3f} with AdamW "
            f"at the best of its learning rates ({best['AdamW']:g})",
            figures["Muon"] < figures["AdamW"],
        ),
        Finding(
            f"Muon has AdamW's last loss after {reached:.0f} steps",
            reached <= FEWER * STEPS,
        ),
    ]


def _table_of_spectra(spectra) -> Table:
    rows = []
    for name, (before, after, cosine) in spectra.items():
        numbers = (before[0], np.median(before), before[-1])
        rows.append(
            (
                name.removeprefix("transformer."),
                *(f"{s:.4f}" for s in numbers),
                f"{after.max():.3f}",
                f"{after.min():.3f}",
                f"{cosine:.3f}",
            )
        )
    columns = ("momentum of", "largest", "middle", "smallest", "after: largest", "smallest", "cosine with U V^T")
    return Table("Singular values, as shares of the norm, and after Newton-Schulz", columns, rows)


def _table_of_losses(adamw: Trained, muon: Trained) -> Table:
    rows = [
        (str(step), f"{loss:.3f}", f"{muon.losses[step]:.3f}") for step, loss in adamw.losses.items() if step % 50 == 0
    ]
    return Table("Validation loss, nats a letter", ("step", "AdamW", "Muon"), rows)


def _draw(figure, spectra, runs, best) -> None:
    left, right = figure.subplots(1, 2)
    for index, (before, after, _) in enumerate(spectra.values()):
        left.semilogy(before, color="C0", alpha=0.6, label="" if index else "momentum, as a share of its norm")
        left.semilogy(after, color="C1", alpha=0.6, label="" if index else "what Muon makes of it")
    left.set(xlabel="singular value, from the largest on", ylabel="its size")
    left.legend()
    for name, style in ("AdamW", "--"), ("Muon", "-"):
        losses = runs[name, best[name]].losses
        right.plot(list(losses), list(losses.values()), style, label=f"{name}, lr {best[name]:g}")
    right.set(xlabel="step", ylabel="validation loss (nats a letter)")
    right.legend()


LESSON = Lesson(
    title="Muon: the same step in every direction",
    claim="A gradient's singular values are uneven: a step along it is a step in a few directions. Muon makes all of them "
    "nearly 1 with matrix products alone, and reaches AdamW's loss in fewer steps.",
    idea="A matrix turns inputs into outputs, and a change of it does so, too. Take the change apart into directions, "
    "pairs of an input and an output, each with a size: its singular values. Those of a gradient are a few large ones "
    "and many small ones. AdamW looks at each number of the matrix by itself and does not see directions. Muon gives "
    "all directions the same size, so that rare ones are learned, too.",
    measure=measure,
    commands=(
        "minillm train --optimizer adamw --lr 0.003 --out runs/adamw    # beside: minillm train, which takes Muon",
        "minillm plot runs/adamw runs/default-1 --out losses.png",
    ),
    read=("minillm/optim/muon.py", "minillm/optim/adamw.py"),
    seconds=15,
)
