"""The picture of losses over steps: loss.png of a run, or several runs over one another (`minillm
plot`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minillm.errors import MissingExtra, UserError
from minillm.files.atomic import write_atomically
from minillm.training.metrics import METRICS_FILE, read_metrics

PLOT_FILE = "loss.png"
FORMATS = ("png", "svg", "pdf")
MANTISSAS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(np.arange(1, 10, 0.1)))  # of ticks, from few to many
FEW_TICKS = 3


def plot_losses(folder: str | Path) -> Path:
    """Draw a run's losses over its steps as loss.png. Raises MissingExtra without matplotlib."""
    path = Path(folder) / PLOT_FILE
    _draw([folder], [_events(Path(folder))], path)
    return path


def plot_runs(folders: Sequence[str | Path], path: str | Path) -> Path:
    """Draw the losses of runs over one another into a PNG, SVG or PDF file; returns its path.

    The axis at the right has the perplexity, exp(loss). Raises UserError for a folder that is no
    run or has no evaluation yet, for runs of pairs among others and for another kind of file,
    MissingExtra without matplotlib.
    """
    path = Path(path)
    if path.suffix[1:].lower() not in FORMATS:
        raise UserError(f"{path}: the picture is a file that ends in .{', .'.join(FORMATS)}")
    for folder in map(Path, folders):
        if not (folder / METRICS_FILE).is_file():
            raise UserError(f"{folder} is no run: it has no {METRICS_FILE}")
        if not _events(folder)[1]:
            raise UserError(f"{folder} has no evaluation yet: there is nothing to draw")
    runs = [_events(Path(folder)) for folder in folders]
    of_pairs = [_is_of_pairs(evaluations) for _, evaluations in runs]
    if any(of_pairs) and not all(of_pairs):
        pairs, other = folders[of_pairs.index(True)], folders[of_pairs.index(False)]
        raise UserError(
            f"{pairs} learned from pairs and {other} did not: their losses are no numbers of one kind, draw them apart"
        )
    _draw(folders, runs, path)
    return path


def _is_of_pairs(evaluations: list[dict]) -> bool:
    """Whether the loss is that of pairs of answers, DPO's."""
    return any("val_margin" in each for each in evaluations)


def _events(folder: Path) -> tuple[list[dict], list[dict]]:
    """The events of steps, and those of evaluations."""
    events = read_metrics(folder)
    steps, evaluations = ([each for each in events if each["event"] == kind] for kind in ("step", "eval"))
    return steps, evaluations


def _draw(folders: Sequence[str | Path], runs: list[tuple[list[dict], list[dict]]], path: Path) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra(path.name, "matplotlib", "plots") from None
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if len(runs) == 1:
        _draw_run(axes, *runs[0])
        axes.set_title(Path(folders[0]).resolve().name, fontsize=12)
    else:
        for number, (name, (_, evaluations)) in enumerate(zip(_names(folders), runs)):
            _draw_among_others(axes, f"C{number % 10}", name, evaluations)
        axes.set_title("validation: solid; training: dashed", fontsize=12)
    axes.set_xlabel("step", fontsize=11)
    of_pairs = _is_of_pairs(runs[0][1])
    axes.set_ylabel("loss (nats a pair)" if of_pairs else "loss (nats a token)", fontsize=11)
    if not of_pairs:
        _label_perplexity(axes)
    axes.legend(fontsize=10)
    axes.grid(alpha=0.3)
    picture = io.BytesIO()  # matplotlib reports a full disk in many ways, write_atomically in one
    figure.savefig(picture, format=path.suffix[1:].lower())
    write_atomically(path, picture.getvalue())


def _draw_run(axes, steps: list[dict], evaluations: list[dict]) -> None:
    axes.plot([e["step"] for e in steps], [e["loss"] for e in steps], color="0.8", linewidth=0.8, label="each batch")
    kind = "pairs" if _is_of_pairs(evaluations) else "text"
    _curve(axes, evaluations, "train_loss", color="C0", marker="o", markersize=4, label=f"training {kind}")
    _curve(axes, evaluations, "val_loss", color="C1", marker="o", markersize=4, label=f"validation {kind}")
    if not evaluations:
        return
    best = _best(evaluations)
    label = f"best: {best['val_loss']:.4f} at step {best['step']}"
    axes.plot(best["step"], best["val_loss"], "k*", markersize=9, label=label)


def _draw_among_others(axes, color: str, name: str, evaluations: list[dict]) -> None:
    best = _best(evaluations)
    label = f"{name}: best {best['val_loss']:.4f} at step {best['step']}"
    _curve(axes, evaluations, "train_loss", color=color, linestyle="--", linewidth=1, alpha=0.8)
    _curve(axes, evaluations, "val_loss", color=color, marker="o", markersize=4, label=label)
    axes.plot(best["step"], best["val_loss"], "*", color=color, markersize=11)


def _curve(axes, evaluations: list[dict], name: str, **style) -> None:
    """Losses of evaluations. The first is a point alone: the loss does not fall in a straight line
    from there.
    """
    points = [(each["step"], each[name]) for each in evaluations]
    if points[1:]:
        axes.plot(*zip(*points[1:]), **style)
        style.pop("label", None)
    for step, loss in points[:1]:
        axes.plot(step, loss, **{**style, "marker": "o", "markersize": 4, "linestyle": "none"})


def _best(evaluations: list[dict]) -> dict:
    return min(evaluations, key=lambda event: event["val_loss"])


def _names(folders: Sequence[str | Path]) -> list[str]:
    """The folders' names, or as they were given where two have the same."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _label_perplexity(axes) -> None:
    perplexity = axes.secondary_yaxis("right", functions=(_exp, _log))
    perplexity.set_ylabel("perplexity", fontsize=11)
    ticks = perplexity_ticks(*(float(_exp(loss)) for loss in axes.get_ylim()))
    perplexity.set_yticks(ticks, labels=[f"{tick:,.4g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])


def perplexity_ticks(lowest: float, highest: float) -> list[float]:
    """Round numbers between two perplexities: 1, 2, 5, 10, ... of each power of ten, or more where
    they are too few.

    >>> perplexity_ticks(40, 1100)
    [50.0, 100.0, 200.0, 500.0, 1000.0]
    >>> perplexity_ticks(4.11, 5.2)
    [4.2, 4.3, 4.4, 4.5, 4.6, 4.7, 4.8, 4.9, 5.0, 5.1, 5.2]
    """
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    for mantissas in MANTISSAS:
        ticks = [round(float(m) * 10.0**power, 6) for power in powers for m in mantissas]
        ticks = [tick for tick in ticks if lowest <= tick <= highest]
        if len(ticks) >= FEW_TICKS:
            break
    return ticks


def _exp(loss):
    return np.exp(np.clip(loss, -50, 50))


def _log(perplexity):
    return np.log(np.clip(perplexity, 1e-20, None))
