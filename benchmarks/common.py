"""What all benchmarks share: timing, and result files that say where they come from."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from minillm.backend.environment import describe

RESULTS = Path(__file__).parent / "results"


def median_seconds(function, repeats: int = 15) -> float:
    """The median time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return median(times)


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def origin() -> dict:
    """The machine, the versions, the date and the commit of a result."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit.stdout.strip() or None,
        "processor": processor(),
        **describe(),
    }


def write_results(name: str, results: dict) -> None:
    """Write benchmarks/results/NAME.json with its origin, and say so."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"origin": origin(), **results}, indent=2) + "\n")
    print(f"wrote {path.relative_to(RESULTS.parent.parent)}")
