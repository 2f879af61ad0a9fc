"""Trains small runs three steps at a time, each time opened anew on another number of ranks and threads, and prints what the
checkpoint then is.

    python resumed_ranks.py FOLDER KINDS N.T.Z ...                  N processes with T threads each, and --zero Z
    mpiexec -n 3 python resumed_ranks.py FOLDER KINDS N.T.Z ...     N of the ranks

KINDS: names of KINDS, with commas. A run that is in FOLDER already goes on. Each line of output is JSON.
"""

import hashlib
import json
import sys
from pathlib import Path

from minillm.distributed.alone import Alone
from minillm.distributed.launch import world
from minillm.distributed.machine import Machine
from minillm.training import TrainingSettings, loop, resume_run, start_run, train

STEPS, PARTS = 3, 4
TEXT = "The rain in Spain falls mainly on the plain, and seven wizards jump over five lazy boxes. " * 12
MODEL = dict(n_layer=2, n_head=2, d_model=16, context_length=8, dropout=0.1)
SETTINGS = dict(batch_size=6, max_steps=9, eval_interval=6, eval_windows=2, sample_tokens=0, lr=1e-2, tokenizer="char")
KINDS = {
    "adamw": (dict(tie_embeddings=True), dict(optimizer="adamw", gradient_clip=0.5)),
    "adam": (dict(model_type="llama"), dict(optimizer="adam", gradient_accumulation=2)),
    "muon": (dict(model_type="llama"), dict(optimizer="muon")),
    "lion": (dict(), dict(optimizer="lion", dtype="float64")),
    "sgd": (dict(), dict(optimizer="sgd")),
    "lora": (None, dict(lora_rank=2, lr=1e-1)),
}


def opened(kind, folder, communicator, zero):
    if (folder / kind).exists():
        return resume_run(folder / kind, communicator=communicator, zero=zero)
    model, changes = KINDS[kind]
    settings = {**SETTINGS, "batch_parts": PARTS, "data": (str(folder / "text.txt"),), **changes}
    if model is None:
        settings |= dict(init=str(folder / "adamw"), tokenizer=TrainingSettings.tokenizer)
    model = dict(dropout=0.1) if model is None else {**MODEL, **model}
    return start_run(TrainingSettings(**settings), model, folder / kind, communicator=communicator, zero=zero)


def contents(folder):
    """name of a file -> what it holds, in short; of state.json what a training changes, but for the size of metrics.jsonl,
    which has speeds.
    """
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    state = json.loads((folder / "training" / "state.json").read_text())
    return {**found, "state": {name: state[name] for name in ("step", "best_step", "best_val_loss", "history")}}


def stage(kind, folder, communicator, machine, what):
    run = opened(kind, folder, communicator, machine.zero)
    train(run, stop_after=run.progress.step + STEPS, machine=machine)
    if communicator.rank == 0:
        print(json.dumps(dict(kind=kind, what=what, step=run.progress.step, contents=contents(run.folder))), flush=True)


def main(folder, kinds, stages):
    everyone = world()
    if everyone.rank == 0:
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for kind in kinds:
        for what in stages:
            size, threads, zero = map(int, what.split("."))
            if isinstance(everyone, Alone):
                stage(kind, folder, everyone, Machine(processes=size, threads=threads, zero=zero), what)
                continue
            everyone.barrier()
            group = everyone.split(0 if everyone.rank < size else 1, everyone.rank)
            if everyone.rank < size:
                stage(kind, folder, group, Machine(threads=threads, zero=zero), f"mpi {what}")
            group.close()
    everyone.close()


if __name__ == "__main__":
    loop.plot_losses = lambda folder: None  # which takes longer than the training
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
