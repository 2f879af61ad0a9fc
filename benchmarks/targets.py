"""python -m benchmarks.targets [FOLDER]: what was measured on a GPU, beside what is aimed at.

FOLDER has the files that the benchmarks write with --write (benchmarks/results by default). A line for each aim of which
something was measured; nothing is said of the others, or of another device than an aim is for.

Sources. FlashAttention-2 on an H100 (80 GB, SXM5): Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning", 2023, and the figures of its repository; causal, TFLOP/s. The peers' times are those of the same run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import RESULTS

PUBLISHED_ON = "H100"
# (direction, head width, tokens) -> TFLOP/s of FlashAttention-2, causal, on an H100; the share of them that is aimed at.
FLASH_ATTENTION_2 = {
    ("forward", 128, 1024): (260, 1.0),
    ("forward", 128, 16384): (335, 1.0),
    ("backward", 64, 1024): (198, 0.7),
    ("backward", 64, 16384): (291, 0.7),
}
FLOAT32_OVER_PYTORCH = 1.5  # attention in float32: times as fast
COMPILED_SHARE = 0.9  # of torch.compile's tokens a second, a whole step


class Aim(NamedTuple):
    """One line: what is measured, its value, the value aimed at, and whether less is better."""

    what: str
    found: float
    aim: float
    unit: str
    less: bool = False

    @property
    def is_reached(self) -> bool:
        return self.found <= self.aim if self.less else self.found >= self.aim

    def __str__(self) -> str:
        sign, verdict = "<=" if self.less else ">=", "reached" if self.is_reached else "not reached"
        return f"{self.what:<58} {self.found:>10,.1f}   {sign} {self.aim:>10,.1f} {self.unit:<9} {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    folder = parser.parse_args().folder
    aims = [*attention_aims(_read(folder / "attention.json"))]
    for path in sorted(folder.glob("train_step_*_*.json")):
        aims += step_aims(_read(path))
    print(f"{'':<58} {'measured':>10}      {'aim':>10}")
    print(*aims, sep="\n")
    print(f"{sum(aim.is_reached for aim in aims)} of {len(aims)} reached")


def attention_aims(results: dict) -> Iterator[Aim]:
    """results: of benchmarks/attention.py."""
    rows = {
        (row["way"], row["direction"], row["shape"]["D"], row["shape"]["T"]): row for row in results.get("rows", ())
    }
    for (way, direction, width, time), row in rows.items():
        where = f"attention {direction}, D {width}, T {time:,}"
        if way == "tensor cores bf16":
            published = FLASH_ATTENTION_2.get((direction, width, time))
            if published and PUBLISHED_ON in (results.get("gpu") or ""):
                rate, share = published
                yield Aim(f"{where}: FlashAttention-2's {rate} x {share}", row["tflops"], rate * share, "TFLOP/s")
            torch = rows.get(("torch cuda bf16", direction, width, time))
            if torch:
                yield Aim(f"{where}, bf16: PyTorch's flash", row["tflops"], torch["tflops"], "TFLOP/s")
        torch = rows.get(("torch cuda float32", direction, width, time))
        if way == "flash" and torch:
            aim = FLOAT32_OVER_PYTORCH * torch["tflops"]
            yield Aim(f"{where}, float32: PyTorch's x {FLOAT32_OVER_PYTORCH}", row["tflops"], aim, "TFLOP/s")


def step_aims(results: dict) -> Iterator[Aim]:
    """results: of benchmarks/train_step.py on a GPU."""
    rows, where = results["results"], f"step of {results['preset']}, B {results['batch_size']}, {results['dtype']}"
    ours = rows["minillm"]
    for name, share in (("torch", 1.0), ("torch.compile", COMPILED_SHARE)):
        if name in rows:
            aim = share * rows[name]["tokens_per_second"]
            yield Aim(f"{where}: {name}'s x {share}", ours["tokens_per_second"], aim, "tokens/s")
            if rows[name]["peak_megabytes"] and ours["peak_megabytes"]:
                yield Aim(
                    f"{where}: {name}'s memory", ours["peak_megabytes"], rows[name]["peak_megabytes"], "MB", less=True
                )


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


if __name__ == "__main__":
    main()
