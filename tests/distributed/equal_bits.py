"""Trains small runs on many numbers of ranks, processes and threads, and prints what came of each.

    python equal_bits.py here FOLDER STEPS KINDS P.T ...              P processes with T threads each
    mpiexec -n 8 python equal_bits.py mpi FOLDER STEPS KINDS N.T+N.T ...  N of the ranks, T threads each

KINDS: names of KINDS, with commas. FOLDER: for the runs. Each line of output is JSON: what, kind,
weights, losses. `N.T+N.T` are groups of ranks that train at the same time, each a run of its own.
"""

import hashlib
import json
import sys
from pathlib import Path

from minillm.distributed.alone import Alone
from minillm.distributed.launch import world
from minillm.distributed.machine import Machine
from minillm.training import TrainingSettings, loop, start_run, train
from minillm.training.metrics import METRICS_FILE, read_metrics

PARTS = 8
TEXT = "The rain in Spain falls mainly on the plain, and seven wizards jump over five lazy boxes. " * 12
MODEL = dict(n_layer=1, n_head=2, d_model=16, context_length=8)
LLAMA = dict(**MODEL, model_type="llama")
SETTINGS = dict(batch_size=8, eval_windows=2, sample_tokens=0, lr=1e-2, min_lr=1e-3, warmup_steps=2, tokenizer="char")
KINDS = {
    "gpt2": (dict(**MODEL, dropout=0.1, tie_embeddings=True), dict(optimizer="adamw", gradient_clip=0.5)),
    "llama": (LLAMA, dict(optimizer="adam", gradient_accumulation=2, gradient_clip=0.1)),
    "uneven": (dict(**LLAMA, dropout=0.1), dict(batch_size=11, gradient_accumulation=3)),  # 11 rows for 8 parts
    "lora": (dict(dropout=0.1), dict(lora_rank=2, lr=1e-1)),
}
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


def start(kind, steps, folder, base, communicator):
    model, changes = KINDS[kind]
    if kind == "lora":
        changes = dict(changes, init=str(base), tokenizer=TrainingSettings.tokenizer)
    text = str(base.parent / "text.txt")
    settings = {
        **SETTINGS,
        "max_steps": steps,
        "eval_interval": steps,
        "batch_parts": PARTS,
        "data": (text,),
        **changes,
    }
    return start_run(TrainingSettings(**settings), model, folder, communicator=communicator)


def trained(what, kind, steps, folder, communicator, machine):
    """Train a run; rank 0 prints what came of it."""
    name = f"{kind}-{what}"
    run = start(kind, steps, folder / name, folder / "base", communicator)
    train(run, machine=machine)
    if communicator.rank == 0:
        path = next(path for name in WEIGHTS if (path := run.folder / name).exists())
        losses = [
            [event[key] for key in ("step", "loss", "gradient_norm", "train_loss", "val_loss") if key in event]
            for event in read_metrics(run.folder)
        ]
        assert (run.folder / METRICS_FILE).stat().st_size == run.progress.metrics_size
        result = dict(what=what, kind=kind, weights=hashlib.sha256(path.read_bytes()).hexdigest(), losses=losses)
        print(json.dumps(result), flush=True)


def here(folder, steps, kinds, numbers):
    """On this machine, without MPI."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    if "lora" in kinds and not (folder / "base").exists():
        train(start("gpt2", 2, folder / "base", folder / "base", Alone()), machine=Machine(processes=1, threads=1))
    for kind in kinds:
        for number in numbers:
            processes, threads = map(int, number.split("."))
            machine = Machine(processes=processes, threads=threads)
            trained(f"here-{number}", kind, steps, folder, Alone(), machine)


def by_mpi(folder, steps, kinds, rounds):
    """With the ranks of mpiexec, in groups."""
    everyone = world()
    for kind in kinds:
        for round_ in rounds:
            groups = [tuple(map(int, group.split("."))) for group in round_.split("+")]
            last, mine = 0, None
            for number, (size, threads) in enumerate(groups):
                if last <= everyone.rank < last + size:
                    mine = number, f"mpi-{size}.{threads}-{round_}", threads
                last += size
            everyone.barrier()  # with pauses, which split has not
            group = everyone.split(mine[0] if mine else len(groups), everyone.rank)
            if mine:
                trained(mine[1], kind, steps, folder, group, Machine(threads=mine[2]))
            group.close()
    everyone.close()


if __name__ == "__main__":
    loop.plot_losses = lambda folder: None  # which takes longer than the training
    where, folder, steps, kinds, *numbers = sys.argv[1:]
    {"here": here, "mpi": by_mpi}[where](Path(folder), int(steps), kinds.split(","), numbers)
