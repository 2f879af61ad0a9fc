"""A training on several ranks with a simulated GPU each, between which an imitation of NCCL moves
arrays: `mpiexec -n N python nccl_training.py FOLDER`, in which text.txt is.
"""

import sys
from pathlib import Path

import imitated_nccl

from minillm.distributed import nccl
from minillm.distributed.launch import world
from minillm.distributed.machine import Machine
from minillm.training import Reporter, TrainingSettings, loop, start_run, train

SETTINGS = dict(batch_size=6, max_steps=3, eval_interval=3, eval_windows=1, sample_tokens=0, lr=1e-2, warmup_steps=1)
MODEL = dict(n_layer=1, n_head=2, d_model=16, context_length=8, dropout=0.1)


class Says(Reporter):
    def on_message(self, message):
        print(message, flush=True)


def main(folder: Path):
    nccl._nccl_of_cupy = lambda: imitated_nccl
    loop.plot_losses = lambda folder: None
    communicator = world("cudasim")
    settings = TrainingSettings(data=(str(folder / "text.txt"),), optimizer="adamw", gradient_clip=0.5, **SETTINGS)
    run = start_run(settings, MODEL, folder / f"run-{communicator.size}", device="cudasim", communicator=communicator)
    train(run, Says(), machine=Machine())
    print("rank", communicator.rank, "sent", sum(communicator.sent.values()), flush=True)
    communicator.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
