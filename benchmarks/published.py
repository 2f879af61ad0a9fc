"""python -m benchmarks.published: nanoGPT's published CPU run with minillm, three seeds: the loss on the whole validation text.

    python -m benchmarks.published --data tinyshakespeare.txt        tiny shakespeare; without --data it is downloaded

Losses are the same whatever else the machine does. nanoGPT's own is the one in its README, on 200 random batches.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

from benchmarks.common import write_results
from minillm.errors import UserError

PRESET = "shakespeare-char-cpu"
NANOGPT = 1.919
HERE = Path(os.environ.get("MINILLM_TEST_DATA", "../shared/data")) / "tinyshakespeare.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(HERE) if HERE.exists() else "shakespeare")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1337, 1338, 1339])
    parser.add_argument("--max-steps", type=int, help="by default the preset's")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/published.json")
    arguments = parser.parse_args()
    losses = {}
    for seed in arguments.seeds:
        losses[str(seed)] = loss_of(seed, arguments)
        print(f"seed {seed}: {losses[str(seed)]:.4f}", flush=True)
    print(f"mean {mean(losses.values()):.4f}; nanoGPT {NANOGPT}")
    if arguments.write:
        write_results("published", {"losses": losses, "mean": mean(losses.values()), "published": NANOGPT})


def loss_of(seed: int, arguments) -> float:
    """That of `minillm train`, as it prints it at its end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "minillm", "train", "--preset", PRESET, "--data", arguments.data]
        command += ["--seed", str(seed), "--out", str(Path(folder) / "run"), "--sample-tokens", "0"]
        command += ["--max-steps", str(arguments.max_steps)] if arguments.max_steps else []
        done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"whole\s+validation\s+text\s+\([\d,]+\s+\w+\):\s+loss\s+([\d.]+)", done.stdout + done.stderr)
    if found is None:
        raise UserError(f"minillm train ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return float(found[1].rstrip("."))


if __name__ == "__main__":
    main()
