"""python -m benchmarks.zero: what one rank takes in memory, and sends, with ZeRO 1, 2 and 3, beside the formulas.

    python -m benchmarks.zero --write                     1, 2 and 4 ranks, started by mpiexec
    mpiexec -n 8 python -m benchmarks.zero --zero 3       these ranks

The memory is that of a training step: the highest resident memory of the process during some steps, as Linux counts it, minus
what it had before its model was made, after a step of a tiny one. (Before the first step a rank has the whole model for a
moment, which it makes or loads.) The formula is that of `minillm info --model ... --processes N --zero Z`. The allocator is
told to give back what is freed. The largest of all ranks is shown, of bytes sent the mean.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import minillm
from benchmarks import common
from minillm.distributed.communicator import Communicator
from minillm.distributed.launch import launched, world
from minillm.errors import UserError
from minillm.profiling.memory import Workload, estimate
from minillm.training.sharded_parallel import among_ranks

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
STEPS = 2


def main() -> None:
    arguments = parse_arguments()
    if arguments.zero is not None:
        communicator = world()
        found = measure(communicator, arguments)
        if communicator.rank == 0:
            print(json.dumps(found), flush=True)
        return
    rows = [run(ranks, zero, sys.argv[1:]) for ranks in arguments.ranks for zero in ((1, 2, 3) if ranks > 1 else (1,))]
    print(f"{common.processor()}: {rows[0]['parameters']:,} parameters, {arguments.parts} parts of one batch")
    print(
        f"{'ranks':>5}{'ZeRO':>5}{'formula MB':>12}{'measured MB':>13}{'ratio':>7}{'sent MB':>9}{'of P':>7}{'ms a step':>11}"
    )
    for row in rows:
        ratio, share = row["measured"] / row["formula"], row["sent"] / (4 * row["parameters"])
        print(
            f"{row['ranks']:5}{row['zero']:5}{row['formula'] / 1e6:12.1f}{row['measured'] / 1e6:13.1f}{ratio:7.2f}"
            f"{row['sent'] / 1e6:9.1f}{share:7.2f}{row['seconds'] * 1e3:11.0f}"
        )
    if arguments.write:
        common.write_results("zero", {"rows": rows})


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--zero", type=int, choices=(1, 2, 3), help="measure the ranks that mpiexec has started")
    parser.add_argument("--parts", type=int, default=4, help="of a batch, as many windows")
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--n-layer", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def run(ranks: int, zero: int, arguments: list[str]) -> dict:
    """What ranks measure that are started for it."""
    sizes = [argument for argument in arguments if argument != "--write"]
    if "--ranks" in sizes:
        start = sizes.index("--ranks")
        end = next((i for i in range(start + 1, len(sizes)) if sizes[i].startswith("--")), len(sizes))
        del sizes[start:end]
    command = [sys.executable, "-m", "benchmarks.zero", "--zero", str(zero), *sizes]
    if ranks > 1:
        search = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
        mpiexec = shutil.which("mpiexec", path=search)
        if mpiexec is None:
            raise UserError('mpiexec is not there: pip install "minillm[mpi]"')
        command = [mpiexec, "-n", str(ranks), *command]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(communicator: Communicator, arguments) -> dict:
    """The figures of all ranks."""
    config = minillm.GPT2Config(
        vocab_size=arguments.vocab_size,
        context_length=arguments.context_length,
        n_layer=arguments.n_layer,
        n_head=arguments.d_model // 64,
        d_model=arguments.d_model,
    )
    tiny = minillm.GPT2Config(vocab_size=64, context_length=16, n_layer=2, n_head=1, d_model=64)
    take_steps(communicator, tiny, arguments.zero, arguments.parts)
    before = resident("VmRSS")
    peak, sent, seconds = take_steps(communicator, config, arguments.zero, arguments.parts)
    workload = Workload(
        config, arguments.parts, workers=1, parts=arguments.parts, processes=communicator.size, zero=arguments.zero
    )
    largest, total = np.array([float(peak - before), seconds]), np.array([float(sent)])
    communicator.maximum(largest)
    communicator.sum(total)
    return {
        "ranks": communicator.size,
        "zero": arguments.zero,
        "parameters": sum(p.value.size for p in minillm.GPT2(config, seed=None).parameters().values()),
        "formula": estimate(workload).total,
        "measured": int(largest[0]),
        "sent": float(total[0]) / communicator.size,
        "seconds": float(largest[1]),
    }


def take_steps(communicator: Communicator, config, zero: int, parts: int) -> tuple[int, int, float]:
    """(highest resident bytes, bytes sent in a step, its seconds), after a first step."""
    model = minillm.GPT2(config, seed=0).train()
    parallel, sharded = among_ranks(model, minillm.AdamW(model.parameters()), parts, 1, communicator, zero)
    parallel.prepare()
    windows = np.random.default_rng(0).integers(0, config.vocab_size, (parts, config.context_length + 1))

    def task(model, part, number):
        loss = model.loss(*part, count=parts * config.context_length)
        model.backward()
        return (loss,)

    def step() -> None:
        parallel.gradients(task, [(windows[:, :-1], windows[:, 1:])])
        sharded.step(parallel.own_gradients, 1e-3, 1.0, parallel.share)
        sharded.optimizer.zero_grad()

    with parallel:
        step()
        gc.collect()
        communicator.barrier()
        CLEAR.write_text("5")  # forget the highest so far
        before, started = sum(communicator.sent.values()), time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds = (time.perf_counter() - started) / STEPS
        return resident("VmHWM"), (sum(communicator.sent.values()) - before) // STEPS, seconds


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    if launched().size > 1 and "--zero" not in sys.argv:
        sys.exit("under mpiexec say --zero 1, 2 or 3")
    main()
