"""metrics.jsonl: a run's losses, speeds and samples, one line an event."""

from __future__ import annotations

import json
from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import naming

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """A run's metrics.jsonl.

    writes: False in a rank that leaves it to another one: nothing is written then.
    """

    def __init__(self, folder: Path):
        self._path, self.writes = folder / METRICS_FILE, True

    @property
    def size(self) -> int:
        """Its length in bytes, which is stored with every checkpoint."""
        return self._path.stat().st_size

    def cut(self, size: int) -> None:
        """Remove the lines written after a checkpoint: a resumed run writes them again.

        A machine that lost its power may have kept the checkpoint and lost lines before it: then
        what is left of them.
        """
        if not self.writes:
            return
        with naming(self._path), open(self._path, "a+b") as file:
            file.seek(0)
            kept = file.read(size)
            file.truncate(kept.rfind(b"\n") + 1)

    def write(self, event: str, **values) -> None:
        """Append one line: {"event": event, ...}."""
        if not self.writes:
            return
        with naming(self._path), open(self._path, "ab") as file:
            file.write((json.dumps({"event": event, **values}) + "\n").encode("utf-8"))


def read_metrics(folder: str | Path) -> list[dict]:
    """All events of a run. Raises UserError for a line that is none."""
    path = Path(folder) / METRICS_FILE
    events = [event_of(line) for line in path.read_bytes().splitlines()]
    if None in events:
        raise UserError(f"{path}:{events.index(None) + 1}: this line is no event of a run: mend it, or take it out")
    return events


def event_of(line: bytes) -> dict | None:
    """A line as an event, a JSON object that has "event"; None for what is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "event" in event else None
