"""Lesson: backpropagation, and how to know that a gradient is right.

gradient_path.py follows one gradient by hand. Finite differences give the same number without a
derivation: change the weight a little and measure the loss. With f the loss as a function of the
weight, by Taylor:

    one-sided       (f(w + h) - f(w)) / h                                          = f' + h/2 f'' + ...
    central         (f(w + h) - f(w - h)) / (2h)                                   = f' + h^2/6 f''' + ...
    five-point      (8 (f(w + h) - f(w - h)) - (f(w + 2h) - f(w - 2h))) / (12h)    = f' - h^4/30 f''''' + ...

(Abramowitz, Stegun, "Handbook of Mathematical Functions", 25.3.) The neglected terms, the
truncation error, fall with h. But f itself has a relative rounding error e (2.2e-16 in float64,
1.2e-7 in float32), and this error, about e f, is divided by h. So the error of the central
difference is about

    E(h) = h^2/6 |f'''| + e |f| / h        dE/dh = 0 at h* = (3 e |f| / |f'''|)^(1/3)

With two logarithmic axes this is a V: slope 2 to the right of h*, slope -1 to its left. A wrong
gradient has no V: the distance from the true gradient does not depend on h.
`minillm.checks.gradcheck` uses the central form, with h = 6e-5, and the five-point form, with h =
1e-3, where the first one leaves a doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from minillm.lessons.gradient_path import FAULTS, follow, gelu_slope, keep
from minillm.lessons.gradient_picture import draw_path
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import small_model
from minillm.models.language_model import LanguageModel

SENTENCE = "The value of the expression"
WEIGHTS = 12  # weights whose errors are averaged: a single error can be 0 by chance
STEPS = np.geomspace(1, 1e-12, 49)  # four a decade
SHOWN = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10)  # steps in the table
KINDS = {"one-sided": 1, "central": 2, "five-point": 4}  # -> the power of h in its truncation


class Case(NamedTuple):
    """A text, the small model in float64 and float32, and a matrix with its gradient."""

    exact: LanguageModel
    rounded: LanguageModel
    decode: Callable  # id -> text
    ids: np.ndarray  # (T + 1,)
    loss: float
    name: str
    gradient: np.ndarray  # (C, 4C)

    @property
    def text(self):
        """Inputs and targets, (1, T) each."""
        return self.ids[None, :-1], self.ids[None, 1:]


def measure() -> Measured:
    """A gradient of the small model by hand, by the engine and by finite differences; then wrong
    gradients.
    """
    case = the_case()
    chosen = shared_weights(case.exact, case.name, *case.text)
    i, j = chosen[0]
    kept = keep(weights_of(case.exact), *case.text, case.exact.config.n_head, i, j)
    path = follow(kept)
    wrong = {fault: float(follow(kept, rules)["weight"]) for fault, rules in FAULTS.items()}

    errors, third = errors_of_differences(case.exact, case.name, chosen, case.gradient, *case.text)
    in_float32, _ = errors_of_differences(case.rounded, case.name, chosen, case.gradient, *case.text)
    errors["float32"] = in_float32["central"]
    average = {kind: np.sqrt(np.mean(np.square(error), axis=0)) for kind, error in errors.items()}
    bend = np.sqrt(np.mean(np.square(third)))
    differences = errors["central"][0] + case.gradient[i, j]  # of the weight that is followed
    faults = {fault: np.abs(differences - value) for fault, value in wrong.items()}
    figures = {
        "by hand": float(path["weight"]),
        "by engine": float(case.gradient[i, j]),
        "by differences": float(differences[np.argmin(average["central"])]),
        "loss": case.loss,
        "predicted step": float((3 * np.finfo(float).eps * case.loss / bend) ** (1 / 3)),
        **figures_of(average, faults),
    }
    tokens = [case.decode(token) for token in case.ids]
    return Measured(
        tables=[
            path_table(kept, path, tokens, case.decode),
            token_table(kept, path, tokens, i, j, figures),
            step_table(average),
            fault_table(wrong, figures["by engine"], faults),
        ],
        findings=findings_of(figures),
        draw=partial(
            _draw,
            follow_path=partial(draw_path, kept=kept, path=path, tokens=tokens, decode=case.decode),
            strongest=strongest(kept, path),
            average=average,
            faults=faults,
            predicted=figures["predicted step"],
        ),
        figures=figures,
    )


def the_case() -> Case:
    """The small model, reading SENTENCE."""
    small = small_model()
    exact, rounded = (engine_in(small.model, dtype) for dtype in ("float64", "float32"))
    ids = np.array(small.tokenizer.encode(SENTENCE))
    loss = float(exact.loss(ids[None, :-1], ids[None, 1:]))
    exact.backward()
    name = f"transformer.h.{small.model.config.n_layer - 1}.mlp.c_fc.weight"

    def decode(token) -> str:
        return repr(small.tokenizer.decode([token]))

    return Case(exact, rounded, decode, ids, loss, name, exact.parameters()[name].grad.copy())


def figures_of(average, faults) -> dict[str, float]:
    """For each kind of difference its best error and its two slopes; for each mistake its smallest
    error.
    """
    figures = {}
    for kind, error in average.items():
        best = STEPS[np.argmin(error)]
        figures[f"best {kind}"] = float(error.min())
        if kind in KINDS:
            figures[f"right slope, {kind}"] = slope(error, 10 * best, 0.05)
            figures[f"left slope, {kind}"] = slope(error, 1e-11, best / 10)
    figures["best step"] = float(STEPS[np.argmin(average["central"])])
    for fault, error in faults.items():
        figures[f"fault, {fault}"] = float(error[(STEPS > 1e-8) & (STEPS < 1e-3)].min())
    return figures


def shared_weights(model, name, inputs, targets) -> list[tuple[int, int]]:
    """The WEIGHTS weights (i, j) of a matrix to whose gradients at least two tokens contribute
    most.

    The contribution of a token is the gradient of its own loss, divided by T as in the mean: in the
    last block a token does not affect the losses of others.
    """
    shares = []
    for t in range(targets.shape[1]):
        alone = np.where(np.arange(targets.shape[1]) == t, targets, -100)  # -100: the other tokens are ignored
        model.zero_grad()
        model.loss(inputs, alone, count=targets.size)
        model.backward()
        shares.append(np.abs(model.parameters()[name].grad))
    second = np.sort(shares, axis=0)[-2]  # (C, 4C)
    order = np.argsort(-second, axis=None, kind="stable")[:WEIGHTS]
    return [tuple(map(int, np.unravel_index(n, second.shape))) for n in order]


def engine_in(model, dtype):
    """A copy of the model in a dtype, in training mode."""
    copy = type(model)(model.config, seed=None, dtype=dtype)
    for name, parameter in copy.parameters().items():
        parameter.value = model.parameters()[name].value.astype(dtype)
    return copy.train()


def weights_of(model) -> dict[str, np.ndarray]:
    """The model's weights by the names of gpt_page.py, with zeros for missing biases."""
    weights = {name.removeprefix("transformer."): parameter.value for name, parameter in model.parameters().items()}
    for name in [name for name in weights if name[:3] not in ("wte", "wpe")]:
        weights.setdefault(name.replace("weight", "bias"), np.zeros(weights[name].shape[-1]))
    return weights


def errors_of_differences(model, name, chosen, gradient, inputs, targets):
    """Finite differences minus gradient, kind -> (weights, steps); and f''' for each weight,
    (weights,).
    """
    model.eval()  # loss only
    value = model.parameters()[name].value
    errors = {kind: np.empty((len(chosen), len(STEPS))) for kind in KINDS}
    third = np.empty(len(chosen))
    for row, where in enumerate(chosen):
        before = value[where]

        def f(change, where=where, before=before):
            value[where] = before + change
            return float(model.loss(inputs, targets))

        middle = f(0)
        for column, h in enumerate(STEPS):
            up, down, up2, down2 = (f(multiple * h) for multiple in (1, -1, 2, -2))
            errors["one-sided"][row, column] = (up - middle) / h
            errors["central"][row, column] = (up - down) / (2 * h)
            errors["five-point"][row, column] = (8 * (up - down) - (up2 - down2)) / (12 * h)
        h = 1e-2
        third[row] = (f(2 * h) - 2 * f(h) + 2 * f(-h) - f(-2 * h)) / (2 * h**3)
        value[where] = before
        for error in errors.values():
            error[row] -= gradient[where]
    return errors, third


def slope(error, low, high) -> float:
    """The slope of log(error) over log(h) for steps from low to high, by least squares.

    >>> round(slope(3 * STEPS**2, 1e-8, 1e-2), 6)
    2.0
    """
    among = (STEPS >= low) & (STEPS <= high)
    return float(np.polyfit(np.log(STEPS[among]), np.log(error[among]), 1)[0])


# --------------------------------------------------------------------------------------------------------- as tables


def path_table(kept, path, tokens, decode) -> Table:
    """The strongest path, a row for each edge."""
    t, c, v = strongest(kept, path)
    n, r, g = kept.norm
    dz, dy, dx, da, du = (path[name][t] for name in ("logits", "y", "x", "a", "u"))
    dn = dy * g
    mean, along = dn.mean(), n[t, c] * (dn * n[t]).mean()
    hit, count = int(v == kept.targets[t]), len(kept.targets)
    rows = [
        (f"logit {decode(v)}", f"(p - {hit}) / {count} = ({kept.p[t, v]:.4f} - {hit}) / {count}", f"{dz[v]:+.5f}"),
        ("y, after the norm", f"{dz[v]:+.5f} * {kept.embedding[v, c]:+.4f} + {len(dz) - 1} more", f"{dy[c]:+.5f}"),
        ("x, before it", f"{r[t, 0]:.4f} * ({dn[c]:+.5f} {-mean:+.5f} {-along:+.5f})", f"{dx[c]:+.5f}"),
        ("a, after GELU", f"{dx[c]:+.5f} * {kept.down[c]:+.4f} + {len(dx) - 1} more", f"{da:+.5f}"),
        ("u, before it", f"{da:+.5f} * slope {gelu_slope(kept)[t]:+.4f}", f"{du:+.5f}"),
        ("weight", f"{du:+.5f} * m, {kept.m[t]:+.4f}", f"{du * kept.m[t]:+.5f}"),
    ]
    title = f"From the loss down to the weight, by way of the token {tokens[t]}"
    return Table(title, ("gradient of", "by the chain rule", "value"), rows)


def strongest(kept, path) -> tuple[int, int, int]:
    """The largest contributions: the token, its channel of x, and the logit (t, c, v)."""
    t = int(np.argmax(np.abs(kept.m * path["u"])))
    c = int(np.argmax(np.abs(path["x"][t] * kept.down)))
    v = int(np.argmax(np.abs(path["logits"][t] * kept.embedding[:, c])))
    return t, c, v


def token_table(kept, path, tokens, i, j, figures) -> Table:
    """The sum over tokens, and the same gradient from the engine and by differences."""
    rows = [
        (tokens[t], f"{kept.m[t]:+.4f}", f"{path['u'][t]:+.5f}", f"{kept.m[t] * path['u'][t]:+.6f}")
        for t in range(len(kept.m))
    ]
    rows.append(("sum", "", "", f"{figures['by hand']:+.14f}"))
    rows.append(("the engine", "", "", f"{figures['by engine']:+.14f}"))
    rows.append(("differences", "", "", f"{figures['by differences']:+.14f}"))
    return Table(
        f"All tokens use the weight from number {i} to number {j}: their gradients add up",
        ("token", "m", "gradient of u", "product"),
        rows,
    )


def step_table(average) -> Table:
    rows = []
    for h in SHOWN:
        at = int(np.argmin(np.abs(np.log(STEPS / h))))
        rows.append((f"{h:.0e}", *(f"{average[kind][at]:.0e}" for kind in average)))
    return Table(
        f"Error of finite differences, mean of {WEIGHTS} weights", ("step h", *KINDS, "central, float32"), rows
    )


def fault_table(wrong, right, faults) -> Table:
    rows = []
    for fault, value in wrong.items():
        at = {h: faults[fault][int(np.argmin(np.abs(np.log(STEPS / h))))] for h in (1e-2, 1e-4, 1e-6)}
        rows.append((fault, f"{value:+.8f}", *(f"{error:.1e}" for error in at.values())))
    title = f"Wrong gradients, and their distance from central differences (the right one is {right:+.8f})"
    return Table(title, ("mistake", "gradient", "h = 1e-2", "1e-4", "1e-6"), rows)


def findings_of(figures) -> list[Finding]:
    apart = abs(figures["by hand"] - figures["by engine"]) / abs(figures["by engine"])
    right, left = ({kind: figures[f"{side} slope, {kind}"] for kind in KINDS} for side in ("right", "left"))
    least = min(error for name, error in figures.items() if name.startswith("fault"))
    return [
        Finding(
            f"the products along the paths add up to the engine's gradient (relative difference {apart:.0e})",
            apart < 1e-12,
        ),
        Finding(
            f"truncation: the error falls as h^{right['one-sided']:.2f} one-sided, h^{right['central']:.2f} central, "
            f"h^{right['five-point']:.2f} five-point",
            all(abs(right[kind] - power) < 0.15 * power for kind, power in KINDS.items()),
        ),
        Finding(
            f"rounding: below its best step it grows as h^{left['central']:.2f} (one-sided h^{left['one-sided']:.2f}, "
            f"five-point h^{left['five-point']:.2f})",
            all(abs(value + 1) < 0.15 for value in left.values()),
        ),
        Finding(
            f"the best step of the central difference is {figures['best step']:.0e}, "
            f"the formula predicts {figures['predicted step']:.0e}",
            0.2 < figures["best step"] / figures["predicted step"] < 5,
        ),
        Finding(
            f"at their best steps the errors are {figures['best one-sided']:.0e}, {figures['best central']:.0e} and "
            f"{figures['best five-point']:.0e}; in float32 {figures['best float32']:.0e}",
            figures["best five-point"] < figures["best central"] < figures["best one-sided"] < figures["best float32"],
        ),
        Finding(
            f"a wrong gradient differs by at least {least:.0e} at every step from 1e-8 to 1e-3, "
            f"{least / figures['best central']:,.0f} times the best error of the right one",
            least > 1000 * figures["best central"],
        ),
    ]


# --------------------------------------------------------------------------------------------------------- as a picture


def _draw(figure, follow_path, strongest, average, faults, predicted) -> None:
    figure.set_size_inches(15, 7.5)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    follow_path(left, strongest=strongest)
    for (kind, error), color in zip(average.items(), ("tab:green", "tab:blue", "tab:purple", "0.6")):
        right.loglog(STEPS, error, color=color, label="central, float32" if kind == "float32" else kind)
    for fault, error in faults.items():
        right.loglog(STEPS, error, color="tab:red", linewidth=0.9)
        place, box = (3e-9, error[STEPS < 1e-4][0] / 1.5), dict(facecolor="white", edgecolor="none", alpha=0.8, pad=1)
        right.annotate(f"mistake: {fault}", place, color="tab:red", va="top", fontsize=9, bbox=box)
    right.axvline(predicted, color="tab:blue", linestyle=":", linewidth=1)
    right.annotate(
        "h*, the best step\nof the central one", (predicted / 1.3, 2e-14), color="tab:blue", fontsize=9, ha="right"
    )
    right.annotate("rounding:\nslope -1", (2e-12, 2e-8), color="0.3", fontsize=10)
    right.annotate("truncation:\nslopes 1, 2, 4", (1.2e-2, 3e-13), color="0.3", fontsize=10)
    right.set(xlabel="step h", ylabel="error of the gradient", title="finite differences", ylim=(1e-14, 10))
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, fontsize=9, frameon=False)


LESSON = Lesson(
    title="Backpropagation: one gradient from the loss to a weight",
    claim="A weight's gradient is a product of derivatives along each path from the loss, summed over the paths. "
    "Making the weight a little larger and smaller gives the same number, best with a step that is neither large nor "
    "tiny. A wrong gradient is noticed at every step.",
    idea="The loss is computed from the weights in many small steps. Backpropagation goes through them in reverse "
    "order. For every number on the way it computes the gradient: how much the loss rises when this number rises a "
    "little. Two rules are enough. Along an edge: multiply by the derivative of that step. Where a number affects the "
    "loss through several others: add what comes back from each.\n\n"
    "The first table follows one weight of the small model, from the loss down. A logit is the score of a token; its "
    "gradient is the token's probability p, minus 1 for the token that came. Then come one number of the vector after "
    "the last norm (y) and before it (x), and one unit of the last MLP after its GELU (a) and before it (u). The "
    "weight multiplies a number m and adds the product to u, so its gradient is m times the gradient of u. All tokens "
    "use the same weight: the second table adds up their gradients.\n\n"
    "Finite differences need no derivation. They change the weight by a step h and measure the loss: at w and w + h "
    "(one-sided), at w + h and w - h (central), or at two more places (five-point). With a large step the loss is not "
    "a straight line; with a tiny one only the rounding of its last digits is left. The best step is in between.",
    measure=measure,
    commands=(
        f'minillm inspect MODEL --text "{SENTENCE}" --tensor h.1.mlp.c_fc.weight     # the code of this gradient',
        "minillm gradcheck gelu     # central, h = 6e-5, and five-point, h = 1e-3: find them in the picture",
        "minillm gradcheck gelu     # again, after changing a sign in minillm/layers/gelu.py",
    ),
    read=(
        "minillm/lessons/gradient_path.py",
        "minillm/checks/gradcheck.py",
        "minillm/layers/layer_norm.py",
        "tests/planting.py",
    ),
    seconds=6,
)
