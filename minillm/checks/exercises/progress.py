"""A reader's stars, and the hints that were given: a file in the user's cache."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from minillm.errors import UserError
from minillm.files.atomic import json_bytes, locked, read_json, write_atomically


def progress_file() -> Path:
    """$MINILLM_CACHE/exercises.json, or in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("MINILLM_CACHE") or base / "minillm") / "exercises.json"


def stars_so_far() -> dict[str, int]:
    """Exercise -> the most stars that it was solved with; those never solved are absent."""
    return {name: each["stars"] for name, each in _read().items() if each["stars"]}


def keep_stars(name: str, stars: int) -> None:
    """Remember stars, if there are more of them than before."""
    _change(name, lambda each: {**each, "stars": max(each["stars"], stars)})


def next_hint(name: str, count: int) -> int:
    """The number of the hint to give now, from 0 on: each time one further, up to the last."""
    given = _read().get(name, EMPTY)["hints"]
    _change(name, lambda each: {**each, "hints": min(given + 1, count)})
    return min(given, count - 1)


EMPTY = {"stars": 0, "hints": 0}


def _read() -> dict[str, dict[str, int]]:
    """What the file has; one that is damaged counts as none."""
    try:
        found = read_json(progress_file())
    except (UserError, OSError):
        return {}
    return {
        name: {key: each.get(key, 0) if isinstance(each.get(key, 0), int) else 0 for key in EMPTY}
        for name, each in found.items()
        if isinstance(each, dict)
    }


def _change(name: str, change) -> None:
    """Write the file anew. Where it cannot be kept nothing is: the verdict is what matters."""
    path = progress_file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name("exercises.lock")):
            known = _read()
            changed = change(known.get(name, EMPTY))
            if changed != known.get(name, EMPTY):
                write_atomically(path, json_bytes({**known, name: changed}))
