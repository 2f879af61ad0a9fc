"""Lesson: the fused gradient of softmax and cross-entropy.

The loss of one token is -log p_t: a softmax turns the logits z into probabilities p, a logarithm
follows, and the target's entry is taken. Each of these has a derivative, and the chain rule applies
them one by one:

    p_j = exp(z_j) / sum_k exp(z_k)      dz_j = p_j (dp_j - sum_k dp_k p_k)
    l_j = log p_j                        dp_j = dl_j / p_j
    loss = -l_t                          dl_j = -1 for j = t, else 0

Substituted, from the last line to the first: dp_t = -1 / p_t and 0 elsewhere, so sum_k dp_k
p_k = -1, and

    dz_j = p_j (0 + 1) = p_j             for j other than t
    dz_t = p_t (-1 / p_t + 1) = p_t - 1

This is softmax minus one-hot. The gradient is first divided by the probability and then multiplied
by it, and on paper the two cancel. In floating point they need not: with M the largest number of
the format, 1 / p_t overflows as soon as p_t < 1 / M, that is, where the loss exceeds log M: 11.09
in float16, 88.72 in float32, 709.78 in float64. The result is inf - inf. A softmax that does not
subtract the largest logit overflows when the logits themselves reach these numbers.

The fused form never divides by a small number. It needs one array, that of the logits, where the
three derivatives save p and create l, dl, dp and dz. Source: Bishop, "Pattern Recognition and
Machine Learning" (2006), 4.3.4; minillm/layers/cross_entropy.py.
"""

from __future__ import annotations

import time
import tracemalloc
from functools import partial

import numpy as np

from minillm.backend.random_streams import stream
from minillm.layers.cross_entropy import cross_entropy_forward
from minillm.layers.softmax import softmax_backward, softmax_forward
from minillm.lessons.lesson import Finding, Lesson, Measured, Table
from minillm.lessons.small_model import small_model

SENTENCE = "The value of the expression"
SHOWN = 6  # tokens of the vocabulary in the first table
VOCABULARY = 512
LOSSES = (1, 10, 50, 80, 88, 89, 95, 103, 1000)
LEVELS = (0, 50, 80, 90, 1000)
FORMATS = ("float16", "float32", "float64")
LARGE = (128, 50257)  # rows, and GPT-2's vocabulary, for memory and time: 26 MB of float32
REPEATS = 5


# ------------------------------------------------------------------------------------- three ways to loss and gradient


def fused(z, targets):
    """z (N, V), targets (N,)  ->  mean loss, dz (N, V). The logits are written over."""
    return cross_entropy_forward(z, targets)


def unfused(z, targets, softmax=softmax_forward):
    """The same, by three functions forward and their three derivatives backward."""
    rows = np.arange(len(z))
    p, saved = softmax(z)
    log_p = np.log(p)
    loss = -log_p[rows, targets].mean()

    # forward: loss = -mean of log_p[target]
    dlog_p = np.zeros_like(log_p)
    dlog_p[rows, targets] = -1 / len(z)
    # forward: log_p = log(p)
    dp = dlog_p / p
    # forward: p = softmax(z)
    return loss, softmax_backward(dp, saved)


def textbook(z, targets):
    """`unfused` with a softmax that does not subtract the largest logit first."""
    return unfused(z, targets, softmax_as_written)


def softmax_as_written(z):
    e = np.exp(z)
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p


WAYS = {"textbook": textbook, "unfused": unfused, "fused": fused}


# ------------------------------------------------------------------------------------------------------ the measurement


def measure() -> Measured:
    """A real prediction, then errors for improbable targets and for large logits, then memory and
    time.
    """
    with np.errstate(all="ignore"):  # overflow is what is measured
        example = real_prediction()
        by_loss = {loss: errors_at(loss, 0) for loss in LOSSES}
        said = {loss: losses_at(loss) for loss in LOSSES}
        by_level = {level: errors_at(2, level) for level in LEVELS}
        breaks = {
            name: breaks_at(lambda loss, name=name: errors_at(loss, 0, name)["unfused"], name) for name in FORMATS
        }
        overflow = breaks_at(lambda level: errors_at(2, level)["textbook"], "float32")
        curve = np.linspace(1, 120, 120)
        curves = [errors_at(loss, 0) for loss in curve]
        largest = _worst(errors_at(10.0 ** (3 + n), 0, name)["fused"] for n, name in enumerate(FORMATS))
        memory, seconds = {way: memory_of(WAYS[way]) for way in WAYS}, times()
    exact = [by_loss[loss] for loss in LOSSES if loss <= 80]
    figures = {
        **{f"breaks in {name}": value for name, value in breaks.items()},
        "textbook overflows": overflow,
        "worst unfused": _worst(error["unfused"] for error in exact),
        "worst fused": _worst(error["fused"] for error in by_loss.values()),
        "loss error at 103, unfused": abs(said[103]["unfused"] - said[103]["exact"]),
        "loss error, fused": _worst(abs(of["fused"] / of["exact"] - 1) for of in said.values()),
        "worst fused anywhere": largest,
        **{f"memory, {way}": value for way, value in memory.items()},
        **{f"seconds, {way}": value for way, value in seconds.items()},
        "example difference": float(np.abs(example["fused"] - example["unfused"]).max()),
        "example sum": float(example["fused"].sum()),
    }
    return Measured(
        tables=[
            example_table(example),
            error_table("Error of the gradient in float32, by the token's loss", "loss", by_loss, said),
            error_table(
                "Error when all logits are raised, which leaves the probabilities as they are", "raised by", by_level
            ),
            cost_table(memory, seconds),
        ],
        findings=findings_of(figures),
        draw=partial(_draw, example=example, curve=curve, curves=curves, breaks=breaks, memory=memory),
        figures=figures,
    )


def findings_of(figures) -> list[Finding]:
    breaks = {name: figures[f"breaks in {name}"] for name in FORMATS}
    limits = {name: float(np.log(float(np.finfo(name).max))) for name in FORMATS}
    eps = np.finfo("float32").eps
    return [
        Finding(
            f"the same gradient: on a real prediction the two differ by at most {figures['example difference']:.0e}, "
            f"and up to a loss of 80 both have an error below float32's eps ({eps:.0e}): "
            f"{figures['worst unfused']:.0e} and {figures['worst fused']:.0e}",
            all(figures[name] < eps for name in ("example difference", "worst unfused", "worst fused")),
        ),
        Finding(
            "unfused, one improbable token makes the gradient NaN: above a loss of "
            + ", ".join(f"{breaks[name]:.2f} ({name})" for name in FORMATS)
            + "; the logarithms of the largest numbers are "
            + ", ".join(f"{limit:.2f}" for limit in limits.values()),
            all(abs(breaks[name] - limits[name]) < 0.02 for name in FORMATS),
        ),
        Finding(
            "if the softmax does not subtract the largest logit, every gradient is NaN where logits reach "
            f"{figures['textbook overflows']:.2f}",
            abs(figures["textbook overflows"] - limits["float32"]) < 0.02,
        ),
        Finding(
            "fused it never breaks: at losses of 1,000, 10,000 and 100,000 the error is "
            f"{figures['worst fused anywhere']:.0e}",
            figures["worst fused anywhere"] < np.finfo("float16").eps,
        ),
        Finding(
            "unfused, the loss is wrong as well where p has lost digits, by "
            f"{figures['loss error at 103, unfused']:.2f} at 103, and then infinite; fused its relative error is at "
            f"most {figures['loss error, fused']:.0e}",
            figures["loss error at 103, unfused"] > 0.01 and figures["loss error, fused"] < 2 * eps,
        ),
        Finding(
            f"memory beyond the logits: {figures['memory, unfused']:.1f} arrays of their size unfused, "
            f"{figures['memory, fused']:.2f} fused",
            figures["memory, unfused"] > 3 and figures["memory, fused"] < 0.1,
        ),
    ]


def real_prediction() -> dict:
    """The small model's logits for the last token of a sentence, and the gradient in two ways."""
    small = small_model()
    ids = np.array(small.tokenizer.encode(SENTENCE))
    z = small.model.next_token_logits(ids[None, :-1])  # (1, V)
    target = ids[-1:]
    _, in_one = fused(z.copy(), target)
    _, in_three = unfused(z, target)
    p, _ = softmax_forward(z)
    likeliest = np.argsort(-p[0], kind="stable")[:SHOWN]
    if target[0] not in likeliest:
        likeliest[-1] = target[0]
    names = [repr(small.tokenizer.decode([i])) for i in likeliest]
    return dict(
        logits=z[0], p=p[0], target=int(target[0]), fused=in_one[0], unfused=in_three[0], shown=likeliest, names=names
    )


def row_with(loss: float, level: float) -> np.ndarray:
    """Logits (1, VOCABULARY) in float64 whose log-sum-exp is `level`, with token 0 at that loss;
    the others are normal.

    With m the log-sum-exp of the others: loss = log(exp(m) + exp(z_0)) - z_0, so
    z_0 = m - log(exp(loss) - 1).
    """
    z = stream("fused gradient", "logits").normal((1, VOCABULARY))
    m = np.log(np.exp(z[0, 1:]).sum())
    z[0, 0] = m - loss - np.log1p(-np.exp(-loss))
    return z + (level - (z[0, 0] + loss))


def errors_at(loss: float, level: float, dtype: str = "float32") -> dict[str, float]:
    """Each way's relative error, norm-wise, for a row in a dtype; the reference starts from the
    same rounded logits.
    """
    z, target = row_with(loss, level).astype(dtype), np.zeros(1, np.int64)
    _, expected = fused(z.astype(np.longdouble if dtype == "float64" else np.float64), target)
    errors = {}
    for way, function in WAYS.items():
        _, found = function(z.copy(), target)
        errors[way] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return errors


def losses_at(loss: float) -> dict[str, float]:
    """The loss that each way computes in float32 for a token of that loss, and the "exact" one for
    the same logits.
    """
    z, target = row_with(loss, 0).astype(np.float32), np.zeros(1, np.int64)
    said = {way: float(function(z.copy(), target)[0]) for way, function in WAYS.items()}
    return {**said, "exact": float(fused(z.astype(np.float64), target)[0])}


def breaks_at(error, dtype: str) -> float:
    """The number above which `error` is NaN or infinite, between 1 and 2 log(largest number): by
    bisection.
    """
    low, high = 1.0, 2 * float(np.log(float(np.finfo(dtype).max)))
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if np.isfinite(error(middle)) else (low, middle)
    return low


def _worst(errors) -> float:
    """The largest error; NaN if one is NaN, which max() may miss."""
    return float(np.max([*errors]))


def large_logits() -> tuple[np.ndarray, np.ndarray]:
    rows, vocabulary = LARGE
    given = stream("fused gradient", "large")
    return given.normal((rows, vocabulary)).astype(np.float32), given.integers(vocabulary, rows)


def memory_of(way) -> float:
    """The peak of a way's allocations beyond its logits, in arrays of their size."""
    z, targets = large_logits()
    size = z.nbytes
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        way(z, targets)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (peak - before) / size


def times() -> dict[str, float]:
    """The median of a few runs of each way, in turns."""
    z, targets = large_logits()
    seconds = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, function in WAYS.items():
            logits = z.copy()
            started = time.perf_counter()
            function(logits, targets)
            seconds[way].append(time.perf_counter() - started)
    return {way: float(np.median(taken)) for way, taken in seconds.items()}


# --------------------------------------------------------------------------------------- as tables, and as a picture


def example_table(example) -> Table:
    rows = []
    for token, name in zip(example["shown"], example["names"]):
        hit = int(token == example["target"])
        rows.append(
            (name, f"{example['logits'][token]:.3f}", f"{example['p'][token]:.6f}", f"{hit}")
            + (f"{example['fused'][token]:+.6f}", f"{example['fused'][token] - example['unfused'][token]:.0e}")
        )
    title = f'The last token of "{SENTENCE}"'
    return Table(title, ("token", "logit", "p", "one-hot", "p - one-hot", "fused - unfused"), rows)


def error_table(title, column, errors, said=None) -> Table:
    """said: the loss by the unfused and by the fused way, as two more columns."""
    rows = []
    for value, of in errors.items():
        cells = [f"{of[way]:.0e}" if np.isfinite(of[way]) else "NaN" for way in WAYS]
        losses = [f"{said[value][way]:.3f}" for way in ("unfused", "fused")] if said else []
        rows.append((f"{value:,}", *cells, *losses))
    return Table(title, (column, *WAYS, *(("loss, unfused", "loss, fused") if said else ())), rows)


def cost_table(memory, seconds) -> Table:
    rows = [(way, f"{memory[way]:.2f}", f"{1e3 * seconds[way]:.0f}") for way in WAYS]
    title = f"What it takes, {LARGE[0]} tokens and {LARGE[1]:,} logits each (the time varies from run to run)"
    return Table(title, ("way", "memory, in arrays of logits", "milliseconds"), rows)


def _draw(figure, example, curve, curves, breaks, memory) -> None:
    figure.set_size_inches(12, 4.5)
    bars, errors, arrays = figure.subplots(1, 3, width_ratios=(1.1, 1.2, 0.7))
    gradient = example["fused"][example["shown"]]
    bars.barh(example["names"], gradient, color=["tab:green" if g < 0 else "tab:red" for g in gradient])
    bars.axvline(0, color="black", linewidth=0.8)
    bars.invert_yaxis()
    bars.set(
        xlabel="gradient: p - one-hot",
        title="a step against the gradient raises the\ntarget and lowers all others",
    )

    for way, color, width in (("fused", "tab:orange", 2), ("unfused", "tab:blue", 1)):
        errors.semilogy(curve, [of[way] for of in curves], color=color, linewidth=width, label=way)
    errors.axvspan(breaks["float32"], curve[-1], color="tab:blue", alpha=0.15)
    errors.annotate("unfused:\nNaN", ((breaks["float32"] + curve[-1]) / 2, 1e-6), ha="center", color="tab:blue")
    errors.axvline(breaks["float16"], color="tab:blue", linestyle=":", linewidth=1)
    errors.annotate(" unfused in float16:\n NaN from here on", (breaks["float16"], 1e-6), color="tab:blue")
    errors.set(
        xlabel="loss of the token (nats)",
        ylabel="relative error",
        title="error of the gradient in float32\n(spikes: p * (1 / p) may round to 1 - 6e-8)",
        ylim=(1e-10, 1e-5),
    )
    errors.legend(loc="lower left")

    places = arrays.bar(list(memory), list(memory.values()), color=["tab:gray", "tab:blue", "tab:orange"])
    arrays.bar_label(places, [f"{value:.2f}" for value in memory.values()])
    arrays.set(title="memory beyond the logits", ylabel="arrays of the logits' size")


LESSON = Lesson(
    title="The fused gradient: softmax minus one-hot",
    claim="The gradient of the loss with respect to the logits is the probabilities, minus 1 at the target. "
    "Computed in this form it takes no memory beyond the logits and never fails. By the chain rule, one function after "
    "the other, it is the same until a token comes that was too improbable: then it is NaN.",
    idea="The loss of a token is -log of its probability, and the probabilities are a softmax of the logits. "
    "Differentiating the logarithm divides by the probability; differentiating the softmax multiplies by it. On paper "
    "the two cancel, and what is left is p - 1 for the token that came and p for all others: every wrong token is "
    "pushed down by its probability, and the right one is pushed up by what it lacks.\n\n"
    "A computer that divides first may divide by something too small. Three ways are measured. Fused: p - 1 and p. "
    "Unfused: softmax, logarithm and choice one by one, then their derivatives in reverse order. Textbook: the same "
    "with a softmax that does not subtract the largest logit first. NaN, not a number, is the result of inf - inf; it "
    "spreads to all weights.",
    measure=measure,
    commands=(
        "minillm gradcheck cross_entropy",
        "python -m benchmarks.linear_cross_entropy --rows 512 --repeats 1     # in a checkout: the output head "
        "included",
    ),
    read=("minillm/layers/cross_entropy.py", "minillm/layers/softmax.py", "minillm/layers/linear_cross_entropy.py"),
)
