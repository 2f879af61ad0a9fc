"""metrics.jsonl: a run's losses, speeds and samples, one line an event."""

from __future__ import annotations

import json
from pathlib import Path

from minillm.files.atomic import naming

METRICS_FILE = "metrics.jsonl"


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

        A machine that lost its power may have kept the checkpoint and lost lines before it: then
        what is left of them.
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
