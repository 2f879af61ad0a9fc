"""python -m benchmarks.all: every benchmark of the CPU, beside its peers, and then the pages with what was measured.

    python -m benchmarks.all                             everything, each in a fresh process, with --write
    python -m benchmarks.all --only train_step generate  some
    python -m benchmarks.all --list                      what there is, how long it took last time, the peers
    python -m benchmarks.all --measure-only              the pages stay as they are

What fails is noted, and the rest goes on; the exit code is then 1. Nothing else should run meanwhile: if the cores are
busy before a benchmark begins, that is said, and the result file keeps the share that other work had during the run.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import busy_seconds
from benchmarks.figures import RESULTS, ROOT
from minillm.errors import UserError

BUSY = 0.5  # the share of a core from which on the machine is too busy
OPERATIONS = (
    "adamw", "bias", "cross_entropy", "dropout", "embedding", "gelu", "global_norm", "layer_norm", "residual_bias",
    "residual_layer_norm", "residual_rms_norm", "rms_norm", "rotary", "swiglu",
)  # fmt: skip


@dataclass(frozen=True)
class Portion:
    """A benchmark: its module, what it is run with beside --write, its peers' packages, its result file."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    @property
    def result(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def command(self) -> str:
        return " ".join(("python -m", f"benchmarks.{self.module}", *self.arguments))

    @property
    def question(self) -> str:
        """What the first line of the module's docstring says behind the command."""
        source = Path(__file__).with_name(f"{self.module}.py").read_text(encoding="utf-8")
        first = ast.get_docstring(ast.parse(source)).partition("\n\n")[0].replace("\n", " ")
        return first.partition(": ")[2].rstrip(".")

    def missing(self) -> list[str]:
        """The peers that are not installed: what is measured has no column of theirs."""
        return [peer for peer in self.peers if importlib.util.find_spec(peer) is None]


TORCH, BOTH = ("torch",), ("torch", "transformers")
PORTIONS = (
    Portion("train_step", "train_step", ("--threads-too",), TORCH),
    Portion("train_step_shakespeare-char", "train_step",
            ("--preset", "shakespeare-char", "--batch-size", "8", "--blocks", "5", "--steps", "4"), TORCH),
    Portion("train_step_gpt2", "train_step",
            ("--preset", "gpt2", "--batch-size", "4", "--context-length", "64", "--blocks", "3", "--steps", "2"), TORCH),
    Portion("train_step_memory", "train_step_memory", (), TORCH),
    Portion("generate", "generate", (), (*BOTH, "llama_cpp")),
    Portion("sampler", "sampler", (), BOTH),
    Portion("tokenizer", "tokenizer", (), ("tokenizers", "tiktoken")),
    Portion("tokenizer_training", "tokenizer_training", ("--size", "1GB"), ("tokenizers",)),
    Portion("linear_cross_entropy", "linear_cross_entropy"),
    Portion("packing", "packing"),
    Portion("gradcheck", "gradcheck"),
    Portion("profile_step", "profile_step"),
    Portion("muon_steps", "muon"),
    Portion("stored_weights", "stored_weights"),
    Portion("opening", "opening"),
    Portion("page", "page", (), ("playwright",)),
    Portion("scaling", "scaling", (), ("torch", "mpi4py")),
    Portion("speculative", "speculative"),
    Portion("published", "published"),
    Portion("muon_losses", "muon", ("--train",)),
    Portion("minute", "minute", ("--seeds", "1", "2", "3"), TORCH),
    *(Portion(name, name, (), TORCH) for name in OPERATIONS),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [portion.name for portion in PORTIONS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="print what there is, and measure nothing")
    parser.add_argument("--measure-only", action="store_true", help="leave the pages as they are")
    arguments = parser.parse_args()
    portions = [portion for portion in PORTIONS if not arguments.only or portion.name in arguments.only]
    if arguments.list:
        for portion in portions:
            print(f"{portion.name:<22} {duration(portion):>8}  {portion.command}")
        return
    failed = run_all(portions)
    if not arguments.measure_only:
        failed |= write_the_pages()
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    sys.exit(1 if failed else 0)


def run_all(portions: list[Portion]) -> dict[str, str]:
    """Name -> why, for those that failed."""
    failed = {}
    for number, portion in enumerate(portions, start=1):
        print(f"== {number} of {len(portions)}: {portion.command}, took {duration(portion)}", flush=True)
        if missing := portion.missing():
            print(f"left out, not installed: {', '.join(missing)}")
        if (busy := busy_cores()) > BUSY * (os.cpu_count() or 1):
            print(f"the machine is busy: other work has {busy:.1f} of {os.cpu_count()} cores; the file will say so")
        started = time.perf_counter()
        code = run(portion)
        print(f"-- {time.perf_counter() - started:.0f} s", flush=True)
        if code:
            failed[portion.name] = f"{portion.command} ended with exit code {code}"
    return failed


def run(portion: Portion) -> int:
    """The exit code of the benchmark, in a process of its own, whose output is seen as it comes."""
    command = [sys.executable, "-m", f"benchmarks.{portion.module}", *portion.arguments, "--write"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def write_the_pages() -> dict[str, str]:
    """In this process nothing was measured: only files are read. Name -> why, if it failed."""
    from benchmarks.pages import write_pages

    try:
        write_pages()
    except UserError as error:
        return {"pages": str(error)}
    return {}


def duration(portion: Portion) -> str:
    """How long it took when the result file was written; "?" if that is not known."""
    if not portion.result.exists():
        return "?"
    seconds = json.loads(portion.result.read_text(encoding="utf-8"))["origin"].get("took_seconds")
    return "?" if seconds is None else f"{seconds} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def busy_cores(seconds: float = 0.5) -> float:
    """How many cores are at work while this process waits; 0 where the system does not say."""
    before = busy_seconds()
    time.sleep(seconds)
    return 0.0 if before is None else (busy_seconds() - before) / seconds


if __name__ == "__main__":
    main()
