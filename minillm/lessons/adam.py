"""Lesson: Adam and AdamW.

Weight decay shrinks every weight a little in each step: w loses lr * decay * w. For plain gradient
descent that is the same as adding the penalty decay/2 |w|^2 to the loss, whose gradient is
decay * w. For Adam it is not (Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR
2019, proposition 2). With the decay in the gradient, Adam's step is

    lr m / sqrt(v),    m = mean of (g + decay w),    v = mean of (g + decay w)^2

The part of it that comes from the decay is

    lr decay w / sqrt(v)        Adam with L2: divided by the size of the weight's own gradients
    lr decay w                  AdamW: the same for all weights

What a weight loses in a step, divided by lr * w, is its *effective decay*: decay / sqrt(v) for Adam
with L2, decay for AdamW. (The decay also changes v, by twice the product of decay w and the mean
gradient, which makes the step smaller. With d = decay w,

    (m + d) / sqrt(v + 2 m d) = m / sqrt(v) + d / sqrt(v) (1 - m^2 / v) + O(d^2)

so that precisely it is decay / sqrt(v) (1 - m^2 / v). Gradients are mostly noise, and m^2 / v is
small.)

It is measured by a replay: the same gradients of a trained model go to the optimizer twice, with
decay and without. The steps are so small that the weights hardly move, and the decay is the only
difference.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.data import random_windows
from minillm.layers.layer import Parameter
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.letters import ALPHABET, reference_letters
from minillm.lessons.small_training import training
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.optim import Adam, AdamW, make_schedule
from minillm.training.evaluation import evaluate

LETTERS = 3_000  # learned from: few, so that the model overfits and a decay can help
WINDOWS, CONTEXT = 12, 32  # in a batch, and letters in a window
STEPS, LEARNING_RATE, WARMUP_STEPS = 300, 6e-3, 20
BETAS = (0.9, 0.99)
EVALUATED = 192  # windows of each text
SEED = 1
SWEEP = {AdamW: (1.0, 2.0, 4.0, 8.0), Adam: (1e-3, 3e-3, 1e-2, 3e-2)}
COMPARED = {AdamW: 2.0, Adam: 3e-3}  # decays that leave the weights about the same norm
GRADIENTS, SETTLED = 120, 40  # gradients replayed; the first ones only fill the moments
REPLAY_LR = 1e-8
TENTHS = 10
SHOWN = (0, 3, 6, 9)  # tenths and tensors in the tables


class Trained(NamedTuple):
    """A model, its losses in nats a letter, and the norm of all decayed weights."""

    model: GPT2
    training: float
    validation: float
    norm: float


class EffectiveDecay(NamedTuple):
    """Medians over tenths of the weights, ordered by the size of their gradients, (10,)."""

    gradient: np.ndarray  # root of the mean square
    measured: np.ndarray
    theory: np.ndarray


def measure() -> Measured:
    """The effect of a decay on weights with small and large gradients, on their norms and on the
    validation loss.
    """
    learned, validated = reference_letters()
    learned = learned[:LETTERS]
    plain = learn(AdamW, 0.0, learned, validated)
    runs = {(kind, decay): learn(kind, decay, learned, validated) for kind, decays in SWEEP.items() for decay in decays}
    gradients = collect_gradients(plain.model, learned)
    decays = {kind: effective_decay(kind, decay, plain.model, gradients) for kind, decay in COMPARED.items()}
    sizes = tensor_sizes(plain.model, {kind: runs[kind, decay].model for kind, decay in COMPARED.items()}, gradients)
    figures = {"without decay": plain.validation, "norm without": plain.norm}
    for kind in SWEEP:
        ratios = [size[kind] for _, size in sizes.values()]
        best = min(SWEEP[kind], key=lambda decay: runs[kind, decay].validation)
        figures |= {
            f"{kind.__name__}: smallest gradients": decays[kind].measured[0],
            f"{kind.__name__}: largest gradients": decays[kind].measured[-1],
            f"{kind.__name__}: theory missed by": np.abs(decays[kind].measured / decays[kind].theory - 1).max(),
            f"{kind.__name__}: first tensor": ratios[0],
            f"{kind.__name__}: last tensor": ratios[-1],
            f"{kind.__name__}: spread of tensors": max(ratios) / min(ratios),
            f"{kind.__name__}: norm": runs[kind, COMPARED[kind]].norm,
            f"{kind.__name__}: best": runs[kind, best].validation,
            f"{kind.__name__}: best decay": best,
            f"{kind.__name__}: norms fall": all(np.diff([plain.norm, *(runs[kind, d].norm for d in SWEEP[kind])]) < 0),
        }
    figures = {name: float(number) for name, number in figures.items()}
    return Measured(
        tables=[_table_of_decays(decays), _table_of_sizes(sizes), _table_of_runs(plain, runs)],
        findings=_findings(figures, list(sizes)),
        draw=lambda figure: _draw(figure, decays, sizes, plain, runs),
        figures=figures,
    )


# ------------------------------------------------------------------------------------------------------ measurements


def learn(kind, decay: float, learned, validated) -> Trained:
    """Train a small GPT-2 with an optimizer, Adam or AdamW, on the letters `learned` (N,)."""
    config = GPT2Config(len(ALPHABET), CONTEXT, n_layer=2, n_head=4, d_model=64, bias=False)
    model = GPT2(config, seed=SEED)
    optimizer = kind(model.parameters(), betas=BETAS, weight_decay=decay)
    schedule = make_schedule("cosine", LEARNING_RATE, STEPS, WARMUP_STEPS, LEARNING_RATE / 10)

    def batch(step):
        return random_windows(learned, WINDOWS, CONTEXT, stream(SEED, "batch", step))

    for _ in training(model, optimizer, batch, schedule, STEPS):
        pass
    model.eval()
    losses = (float(evaluate(model.loss, text, EVALUATED, CONTEXT, EVALUATED).loss) for text in (learned, validated))
    return Trained(model, *losses, math.sqrt(float((weights(model) ** 2).sum())))


def decayed(model) -> dict[str, Parameter]:
    """The parameters to which a decay applies: matrices, not the scales of norms."""
    return {name: parameter for name, parameter in model.parameters().items() if parameter.value.ndim >= 2}


def weights(model) -> np.ndarray:
    """All decayed weights in one array (N,), in float64."""
    return np.concatenate([parameter.value.ravel() for parameter in decayed(model).values()], dtype=np.float64)


def collect_gradients(model, learned) -> list[np.ndarray]:
    """Gradients of the weights (N,) on other batches; the model does not change."""
    model.train()
    gradients = []
    for index in range(GRADIENTS):
        model.loss(*random_windows(learned, WINDOWS, CONTEXT, stream(SEED, "replayed", index)))
        model.backward()
        gradients.append(np.concatenate([parameter.grad.ravel() for parameter in decayed(model).values()]))
        model.zero_grad()
    return gradients


def effective_decay(kind, decay: float, model, gradients) -> EffectiveDecay:
    """What the decay takes from weights in a step, divided by lr * w: by replay and by theory."""
    start = weights(model)
    with_decay, v = replay(kind, decay, start, gradients)
    without, _ = replay(kind, 0.0, start, gradients)
    lost = (without - with_decay) / (REPLAY_LR * start)
    m = sum(gradients) / len(gradients)
    theory = np.full_like(start, decay) if kind.decoupled else decay / np.sqrt(v) * (1 - m**2 / v)
    size = root_mean_square(gradients)
    tenths = np.array_split(np.argsort(size), TENTHS)
    return EffectiveDecay(*(np.array([np.median(each[tenth]) for tenth in tenths]) for each in (size, lost, theory)))


def replay(kind, decay: float, start, gradients) -> tuple[np.ndarray, np.ndarray]:
    """weights (N,), gradients  ->  the mean change of each weight in a step, and v^ after the last
    one, (N,)
    """
    parameter = Parameter(start[None].copy())  # two dimensions: vectors are not decayed
    optimizer = kind({"weights": parameter}, REPLAY_LR, BETAS, weight_decay=decay)
    for step, gradient in enumerate(gradients):
        if step == SETTLED:
            settled = parameter.value.copy()
        parameter.grad = gradient[None].astype(start.dtype)
        optimizer.step()
    moved = (parameter.value - settled)[0] / (len(gradients) - SETTLED)
    return moved, optimizer.second_moments["weights"][0] / (1 - BETAS[1] ** len(gradients))


def root_mean_square(gradients) -> np.ndarray:
    """The root mean square of each weight's gradient, (N,)."""
    return np.sqrt(sum(gradient.astype(np.float64) ** 2 for gradient in gradients) / len(gradients))


def tensor_sizes(plain, models, gradients) -> dict[str, tuple[float, dict]]:
    """Tensor -> (typical gradient of its weights, {optimizer: norm as a share of that without
    decay}).

    Ordered by gradient, the smallest first.
    """
    bounds = np.cumsum([parameter.value.size for parameter in decayed(plain).values()])[:-1]
    typical = [float(np.median(part)) for part in np.split(root_mean_square(gradients), bounds)]
    sizes = {}
    for gradient, (name, parameter) in sorted(zip(typical, decayed(plain).items())):
        norm = np.linalg.norm(parameter.value)
        shares = {kind: float(np.linalg.norm(decayed(model)[name].value) / norm) for kind, model in models.items()}
        sizes[name.removeprefix("transformer.").removesuffix(".weight")] = (gradient, shares)
    return sizes


# ---------------------------------------------------------------------------------------- findings, tables, picture


def _findings(figures, tensors: list[str]) -> list[Finding]:
    f = figures
    perplexity = {name: math.exp(f[name]) for name in ("AdamW: best", "Adam: best", "without decay")}
    return [
        Finding(
            f"AdamW shrinks all weights alike: effective decay {f['AdamW: smallest gradients']:.3f} where gradients "
            f"are smallest, {f['AdamW: largest gradients']:.3f} where they are largest (theory: {COMPARED[AdamW]:g})",
            f["AdamW: theory missed by"] < 0.01,
        ),
        Finding(
            f"Adam with L2 does not: {f['Adam: smallest gradients']:.2f} where gradients are smallest, "
            f"{f['Adam: largest gradients']:.2f} where they are largest (theory: about decay / sqrt(v), met "
            f"within {f['Adam: theory missed by']:.1%})",
            f["Adam: smallest gradients"] > 5 * f["Adam: largest gradients"] and f["Adam: theory missed by"] < 0.05,
        ),
        Finding(
            f"Adam leaves {f['Adam: first tensor']:.0%} of the norm of {tensors[0]}, the tensor with the smallest "
            f"gradients, and {f['Adam: last tensor']:.0%} of {tensors[-1]}, that with the largest; AdamW "
            f"{f['AdamW: first tensor']:.0%} and {f['AdamW: last tensor']:.0%}",
            f["Adam: spread of tensors"] > 2 * f["AdamW: spread of tensors"],
        ),
        Finding(
            f"the more decay, the smaller the norm of the weights, with both ({f['norm without']:.1f} without)",
            f["Adam: norms fall"] == f["AdamW: norms fall"] == 1,
        ),
        Finding(
            f"best validation perplexity: AdamW {perplexity['AdamW: best']:.2f} (decay {f['AdamW: best decay']:g}), "
            f"Adam with L2 {perplexity['Adam: best']:.2f} (decay {f['Adam: best decay']:g}), without decay "
            f"{perplexity['without decay']:.2f}",
            f["AdamW: best"] < f["Adam: best"] < f["without decay"],
        ),
    ]


def _table_of_decays(decays) -> Table:
    adamw, adam = decays[AdamW], decays[Adam]
    return Table(
        f"Effective decay; AdamW with {COMPARED[AdamW]:g}, Adam with L2 of {COMPARED[Adam]:g}",
        ("weights, by size of gradient", "gradient", "AdamW", "theory", "Adam with L2", "theory"),
        [
            (
                f"tenth {index + 1} of {TENTHS}",
                f"{adamw.gradient[index]:.1e}",
                *(f"{each[index]:.3f}" for each in (adamw.measured, adamw.theory, adam.measured, adam.theory)),
            )
            for index in SHOWN
        ],
    )


def _table_of_sizes(sizes) -> Table:
    rows = [
        (name, f"{gradient:.1e}", f"{shares[AdamW]:.0%}", f"{shares[Adam]:.0%}")
        for name, (gradient, shares) in sizes.items()
    ]
    return Table(
        "Norm of a tensor, as a share of its norm without decay",
        ("tensor", "gradient", "AdamW", "Adam with L2"),
        [rows[index] for index in SHOWN],
    )


def _table_of_runs(plain, runs) -> Table:
    results = {("no decay", 0.0): plain} | {(_name(kind), decay): run for (kind, decay), run in runs.items()}
    return Table(
        f"After {STEPS} steps on {LETTERS:,} letters",
        ("optimizer", "decay", "norm of weights", "training perplexity", "validation perplexity"),
        [
            (name, f"{decay:g}", f"{run.norm:.2f}", f"{math.exp(run.training):.2f}", f"{math.exp(run.validation):.2f}")
            for (name, decay), run in results.items()
        ],
    )


def _name(kind) -> str:
    return "AdamW" if kind is AdamW else "Adam with L2"


def _draw(figure, decays, sizes, plain, runs) -> None:
    figure.set_size_inches(11, 7)
    axes = figure.subplot_mosaic([["decays", "sizes"], ["decays", "runs"]])
    for kind, color in ((AdamW, "C0"), (Adam, "C1")):
        at, label = decays[kind], _name(kind)
        axes["decays"].loglog(at.gradient, at.theory, color=color, label=f"{label}, theory")
        axes["decays"].loglog(at.gradient, at.measured, "o", color=color, label=f"{label}, measured")
        shift = -0.2 if kind is AdamW else 0.2
        shares = [share[kind] for _, share in sizes.values()]
        axes["sizes"].bar(np.arange(len(shares)) + shift, shares, 0.4, color=color, label=label)
        perplexities = [math.exp(runs[kind, decay].validation) for decay in SWEEP[kind]]
        axes["runs"].semilogx(SWEEP[kind], perplexities, marker="o", color=color, label=label)
    axes["decays"].set(
        xlabel="size of a weight's gradients",
        ylabel="decay of a weight, per unit of learning rate",
        title="effective decay",
    )
    axes["decays"].legend(fontsize="small")
    axes["sizes"].set_xticks(
        range(len(sizes)), sizes, rotation=40, ha="right", rotation_mode="anchor", fontsize="small"
    )
    axes["sizes"].set(title="norm of each tensor, as a share of that without decay", ylim=(0, 1))
    axes["sizes"].legend(fontsize="small", loc="upper left")
    axes["runs"].axhline(math.exp(plain.validation), color="0.5", linestyle="--", label="no decay")
    axes["runs"].set(xlabel="weight decay", ylabel="perplexity", title="validation perplexity")
    axes["runs"].legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)


LESSON = Lesson(
    title="Adam and AdamW: where the weight decay goes in",
    claim="In AdamW weight decay shrinks all weights alike. Added to the gradient of Adam, as an L2 penalty, it "
    "shrinks weights with small gradients most and those with large gradients hardly, and the best validation loss is "
    "not as low.",
    idea="Adam divides each weight's step by the typical size of that weight's gradients, so that all weights move at "
    "about the same speed. Weight decay pulls weights towards zero, against overfitting. If the pull is added to the "
    "gradient, it is divided as well: a weight with tiny gradients is pulled hard, one with large gradients is hardly "
    "pulled. AdamW takes the decay out of the gradient and applies it to the weight itself.",
    measure=measure,
    commands=(
        "minillm train --optimizer adamw --lr 0.003 --weight-decay 1 --max-steps 400",
        "minillm train --optimizer adam --lr 0.003 --weight-decay 0.001 --max-steps 400    # about the same validation loss",
        'minillm inspect RUN --text "The value"    # for both runs: which weights became small?',
    ),
    read=("minillm/optim/adamw.py", "minillm/optim/adam.py", "minillm/lessons/adam.py"),
    seconds=20,
)
