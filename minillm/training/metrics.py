"""metrics.jsonl, a line for each event, and the plot of the losses."""

from __future__ import annotations

import io
import json
from pathlib import Path

from minillm.errors import MissingExtra
from minillm.files.atomic import naming, write_atomically

METRICS_FILE, PLOT_FILE = "metrics.jsonl", "loss.png"


class MetricsLog:
    """A run's metrics.jsonl."""

    def __init__(self, folder: Path):
        self._path = folder / METRICS_FILE

    @property
    def size(self) -> int:
        """Its length in bytes, which is stored with every checkpoint."""
        return self._path.stat().st_size

    def cut(self, size: int) -> None:
        """Remove the lines written after a checkpoint: a resumed run writes them again.

        After a power failure the file may be shorter than at the checkpoint; the rest is kept.
        """
        with naming(self._path), open(self._path, "a+b") as file:
            file.seek(0)
            kept = file.read(size)
            file.truncate(kept.rfind(b"\n") + 1)

    def write(self, event: str, **values) -> None:
        """Append one line: {"event": event, ...}."""
        with naming(self._path), open(self._path, "ab") as file:
            file.write((json.dumps({"event": event, **values}) + "\n").encode("utf-8"))


def read_metrics(folder: str | Path) -> list[dict]:
    """All events of a run."""
    with open(Path(folder) / METRICS_FILE, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def plot_losses(folder: str | Path) -> Path:
    """Draw a run's losses over its steps as loss.png. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("loss.png", "matplotlib", "plots") from None
    events = read_metrics(folder)
    steps = [event for event in events if event["event"] == "step"]
    evaluations = [event for event in events if event["event"] == "eval"]

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([e["step"] for e in steps], [e["loss"] for e in steps], color="0.8", linewidth=0.8, label="each batch")
    eval_steps = [e["step"] for e in evaluations]
    axes.plot(eval_steps, [e["train_loss"] for e in evaluations], marker="o", markersize=3, label="training text")
    axes.plot(eval_steps, [e["val_loss"] for e in evaluations], marker="o", markersize=3, label="validation text")
    if evaluations:
        best = min(evaluations, key=lambda event: event["val_loss"])
        axes.plot(best["step"], best["val_loss"], "k*", label=f"best: {best['val_loss']:.4f} at step {best['step']}")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=Path(folder).resolve().name)
    perplexity = axes.secondary_yaxis("right", functions=(_exp, _log))
    perplexity.set_ylabel("perplexity")
    perplexity.set_yticks([2, 3, 5, 10, 20, 50, 100], labels=["2", "3", "5", "10", "20", "50", "100"])
    axes.legend()
    axes.grid(alpha=0.3)
    picture = io.BytesIO()  # drawn in memory first: a full disk is then reported by our own write
    figure.savefig(picture, format="png")
    write_atomically(Path(folder) / PLOT_FILE, picture.getvalue())
    return Path(folder) / PLOT_FILE


def _exp(loss):
    import numpy as np

    return np.exp(np.clip(loss, -50, 50))


def _log(perplexity):
    import numpy as np

    return np.log(np.clip(perplexity, 1e-20, None))
