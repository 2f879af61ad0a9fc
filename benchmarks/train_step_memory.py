"""python -m benchmarks.train_step_memory: the memory of a training step on the CPU, beside PyTorch eager and torch.compile.

    python -m benchmarks.train_step_memory --presets gpt2      one of the shapes; with --write the others keep their figures
    python -m benchmarks.train_step_memory --without-compile   minillm and eager; compiling takes long

Each contestant trains in a fresh process, with the threads that it takes by itself (minillm in one process), and all by the
same account: the highest resident memory of the process in two steps that follow a first one, less what the process had
before it made the model. By then it has imported all, drawn the data and taken two steps of a tiny model, so that
libraries and what they load at first use are in neither. Counted are weights, gradients, the optimizer's state,
activations, and what an allocator or a compiler keeps. Needs Linux: the highest value is forgotten before the steps.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np

import minillm
from benchmarks import common
from benchmarks.train_step import MinillmTrainer
from benchmarks.zero import CLEAR, resident
from minillm.errors import UserError
from minillm.models.presets import find_preset

STEPS = 2
SHAPES = {  # preset -> windows in a batch, tokens in a window
    "shakespeare-char-cpu": (12, 64),
    "shakespeare-char": (8, 256),
    "gpt2": (4, 64),
}
CONTESTANTS = ("minillm", "torch", "torch.compile")
TINY = minillm.GPT2Config(vocab_size=64, context_length=16, n_layer=2, n_head=1, d_model=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="NAME")
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--contestant", choices=CONTESTANTS, help="measure this one, in this process, and print bytes")
    parser.add_argument("--write", action="store_true", help="write a file in benchmarks/results/")
    arguments = parser.parse_args()
    if not CLEAR.exists():
        parser.error(f"there is no {CLEAR}: the highest resident memory can be measured on Linux alone")
    if arguments.contestant:
        print(json.dumps([growth(arguments.contestant, preset) for preset in arguments.presets]))
        return
    left_out = {"torch.compile"} if arguments.without_compile else set()
    contestants = [name for name in CONTESTANTS if is_there(name) and name not in left_out]
    found = {preset: row(preset, contestants) for preset in arguments.presets}
    if arguments.write:
        common.write_results("train_step_memory", {"presets": {**written_before(), **found}})


def written_before() -> dict:
    """The presets of the result file so far: those that are not measured now stay as they are."""
    path = common.RESULTS / "train_step_memory.json"
    return json.loads(path.read_text(encoding="utf-8"))["presets"] if path.exists() else {}


def row(preset: str, contestants: list[str]) -> dict:
    """The figures of a preset, printed too."""
    batch_size, context_length = SHAPES[preset]
    megabytes = {name: in_a_process(name, preset) / 1e6 for name in contestants}
    sizes = ", ".join(f"{name} {size:,.0f} MB" for name, size in megabytes.items())
    print(f"{preset}, {batch_size} x {context_length}: {sizes}", flush=True)
    shape = {"batch_size": batch_size, "context_length": context_length}
    return {**shape, "date": common.origin()["date"], "peak_megabytes": megabytes}


def is_there(contestant: str) -> bool:
    """Whether this contestant can be measured here."""
    if contestant == "torch.compile" and not shutil.which("g++"):
        return False
    return contestant == "minillm" or importlib.util.find_spec("torch") is not None


def in_a_process(contestant: str, preset: str) -> int:
    """Bytes, as a fresh process measures them. Raises UserError if it fails."""
    command = [sys.executable, "-m", "benchmarks.train_step_memory", "--contestant", contestant, "--presets", preset]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{contestant} with {preset} ended with exit code {done.returncode}: {done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])[0]


def growth(contestant: str, preset: str) -> int:
    """Bytes of resident memory at the peak of the steps, less those before the model was made."""
    found, (batch_size, context_length) = find_preset(preset), SHAPES[preset]
    shape = {**found.model, "dropout": 0.0, "context_length": context_length}
    config = minillm.GPT2Config(**shape, vocab_size=found.vocab_size)
    tiny, batch = windows(TINY, 2), windows(config, batch_size)
    take_steps(contestant, TINY, tiny)
    gc.collect()
    before = resident("VmRSS")
    return take_steps(contestant, config, batch) - before


def windows(config, count: int):
    """ids, targets (count, T)"""
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (count, config.context_length + 1))
    return ids[:, :-1], ids[:, 1:]


def take_steps(contestant: str, config, batch) -> int:
    """The highest resident bytes of the steps that follow a first one."""
    if contestant == "minillm":
        with MinillmTrainer(config, batch, processes=1) as trainer:
            return peak_of(trainer, batch)
    from benchmarks.torch_gpt2 import TorchTrainer

    return peak_of(TorchTrainer(config, compiled=contestant == "torch.compile"), batch)


def peak_of(trainer, batch) -> int:
    trainer.step(*batch)
    gc.collect()
    CLEAR.write_text("5")  # forget the highest so far
    for _ in range(STEPS):
        trainer.step(*batch)
    return resident("VmHWM")


if __name__ == "__main__":
    main()
