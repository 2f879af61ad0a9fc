"""What all benchmarks share: timing, and result files that say where they come from."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from minillm.backend.environment import describe

STARTED = time.perf_counter()
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")  # where results are written


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
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "processor": processor(),
        "took_seconds": round(time.perf_counter() - STARTED),
        "other_work": other_work(),
        **describe(),
        **graphics(),
    }


def other_work() -> float | None:
    """The share of all cores that other processes had since this one started: neither it nor those that it
    waited for. None where the system has no /proc/stat.
    """
    if _BUSY is None:
        return None
    own = sum(os.times()[:4])
    elapsed = os.cpu_count() * (time.perf_counter() - STARTED)
    return round(max(0.0, busy_seconds() - _BUSY - (own - _OWN)) / elapsed, 2)


def busy_seconds() -> float | None:
    """Seconds that the machine's cores have worked since it started, all of them together."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


_BUSY, _OWN = busy_seconds(), sum(os.times()[:4])  # when this process started


def graphics() -> dict[str, str]:
    """The GPU with its memory, and the versions of its driver and of CUDA; empty where there is none."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return {}
    if not cupy.cuda.is_available():
        return {}
    runtime = cupy.cuda.runtime
    found = runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {
        "GPU": f"{found['name'].decode()}, {found['totalGlobalMem'] / 2**30:.0f} GiB, sm_{found['major']}{found['minor']}",
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        or "nvidia-smi does not say",
        "CUDA": f"{_release(runtime.runtimeGetVersion())}, the driver's {_release(runtime.driverGetVersion())}",
    }


def _release(version: int) -> str:
    """CUDA's number of a version as people write it: 13020 -> 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _commit() -> str | None:
    return _output("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")


def _output(*command: str) -> str | None:
    """What a program prints; None where it is not installed, or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def write_results(name: str, results: dict) -> None:
    """Write benchmarks/results/NAME.json with its origin, and say so."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"origin": origin(), **results}, indent=2) + "\n")
    print(
        f"wrote {path.parent.parent.name}/{path.parent.name}/{path.name}: python -m benchmarks.pages puts it into the pages"
    )
