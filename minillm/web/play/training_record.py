"""What run folders say of their runs: a list of them, and the new lines of metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

from minillm.errors import UserError
from minillm.training.checkpoint import read_state
from minillm.training.metrics import METRICS_FILE, event_of
from minillm.web.play.places import inside, is_inside

MOST_RUNS = 200
SHOWN = ("optimizer", "lr", "weight_decay", "batch_size", "seed", "max_steps")
AT_ONCE = 2**20  # bytes of metrics.jsonl in one answer


def list_runs(runs: Path) -> list[dict]:
    """The runs below `runs`, two folders deep, those written last first: name, steps, settings."""
    found = [path for pattern in ("*", "*/*") for path in runs.glob(f"{pattern}/{METRICS_FILE}")]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(runs).parts)]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    entries = (_entry(runs, path.parent) for path in found[:MOST_RUNS])
    return [entry for entry in entries if entry is not None]


def new_events(runs: Path, name: str, offset: int) -> dict:
    """The lines of a run's metrics.jsonl from byte `offset` on.

    {"offset": where to go on, "events": [...], "again": whether to forget what came before,
    "problem": what is wrong with a line that was left out, or ""}: a resumed run takes back lines
    that it had written. {"gone": true} where there is no such file. Raises UserError for a place
    outside of `runs`.
    """
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise UserError(f"the offset of {name} is {offset!r}: reload the page")
    path = inside(runs, f"{name}/{METRICS_FILE}")
    try:
        with open(path, "rb") as file:
            again = not _is_begin_of_line(file, offset)
            start = 0 if again else offset
            file.seek(start)
            part = file.read(AT_ONCE)
            part = part[: part.rfind(b"\n") + 1]
            events = [event_of(line) for line in part.split(b"\n")[:-1]]
            problem = _problem(path, file, start, events)
    except OSError:
        return {"gone": True}
    found = [event for event in events if event is not None]
    return {"offset": start + len(part), "events": found, "again": again, "problem": problem}


def _problem(path: Path, file, start: int, events: list[dict | None]) -> str:
    """The first line from byte `start` on that is no event, by its number in the file, or ""."""
    if None not in events:
        return ""
    file.seek(0)
    number = file.read(start).count(b"\n") + events.index(None) + 1
    others = events.count(None) - 1
    more = f", nor are {others:,} lines after it" if others else ""
    return f"{path}:{number}: this line is no event of a run{more}: the curves are drawn without it"


def _is_begin_of_line(file, offset: int) -> bool:
    if offset == 0:
        return True
    file.seek(offset - 1)
    return file.read(1) == b"\n"


def _entry(runs: Path, folder: Path) -> dict | None:
    """A run in the list; None for a folder whose state cannot be read, and for a link that leads
    out of `runs`.
    """
    name = folder.relative_to(runs).as_posix()
    if not is_inside(runs, f"{name}/{METRICS_FILE}"):
        return None
    try:
        progress, description = read_state(folder)
    except UserError:
        return None
    settings, model = description["settings"], description["model"]
    return {
        "name": name,
        "step": progress.step,
        "is_over": progress.step >= settings["max_steps"],
        "best_step": progress.best_step,
        "best_val_loss": progress.best_val_loss,
        "overfitting_since": progress.overfitting_since,
        "settings": {**{name: settings.get(name) for name in SHOWN}, "dropout": model.get("dropout")},
    }
