"""python -m benchmarks.train_step: a whole training step, minillm beside PyTorch eager and torch.compile, in one run.

    python -m benchmarks.train_step                                                    a small GPT-2 on the CPU
    python -m benchmarks.train_step --processes 2 --threads-too                        processes beside threads, too
    python -m benchmarks.train_step --device cuda --preset gpt2 --dtype bfloat16       on a GPU; also float32, tf32

The same model, batch, clipping and optimizer in all; PyTorch has scaled_dot_product_attention and its fused AdamW, and for
bfloat16 its autocast, which keeps float32 weights as minillm does. They take turns in blocks of steps, so that all see the same
machine, and the first steps of each block are not counted (caches and sleeping threads). On a GPU a block is timed as a whole,
since steps are only handed over to it, and waited for at its end.

Printed: milliseconds and tokens a second (median over blocks), ratios block by block, the model's operations a second by the
formula of minillm/profiling/flops.py, and their share of the peak of the device (n/a where it is not known); the peak of
the memory of arrays, by each allocator's account, measured in steps of their own (PyTorch keeps none on the CPU:
train_step_memory.py measures the memory of whole processes). On the CPU also: the share of minillm's step
that its matrix products alone take, and the fraction of this machine's own rate of matrix products that the step reaches.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import time
from contextlib import ExitStack
from statistics import median

import numpy as np

import minillm
from benchmarks import common
from benchmarks.cpu_products import measure_peak, measure_products
from minillm.backend.arrays import to_device
from minillm.backend.threads import default_workers
from minillm.distributed.alone import Alone
from minillm.distributed.choice import choose
from minillm.distributed.machine import Machine
from minillm.distributed.workers import Workers
from minillm.errors import UserError
from minillm.models.presets import find_preset
from minillm.profiling.flops import flops_per_token
from minillm.profiling.memory import Workload, estimate
from minillm.profiling.memory_measure import measured_peak
from minillm.profiling.peaks import peaks_of
from minillm.training.sharded_parallel import among_ranks

DEFAULT = "shakespeare-char-cpu"
NOT_COUNTED = 2  # steps at the beginning of a block


def main() -> None:
    arguments = parse_arguments()
    preset = find_preset(arguments.preset)
    vocab_size = arguments.vocab_size or preset.vocab_size
    shape = {**preset.model, "dropout": 0.0}
    if arguments.context_length:
        shape["context_length"] = arguments.context_length
    config = minillm.GPT2Config(**shape, vocab_size=vocab_size)
    batch_size = arguments.batch_size or preset.training["batch_size"]
    windows = np.random.default_rng(0).integers(0, vocab_size, (batch_size, config.context_length + 1))
    ids, targets = windows[:, :-1], windows[:, 1:]

    with ExitStack() as open_trainers:
        ours = MinillmTrainer(config, (ids, targets), arguments.device, arguments.dtype, arguments.processes)
        contestants = {"minillm": open_trainers.enter_context(ours)}  # its processes first: threads cannot be forked
        if arguments.threads_too:
            threads = MinillmTrainer(config, (ids, targets), arguments.device, arguments.dtype, processes=1)
            contestants["minillm, threads"] = open_trainers.enter_context(threads)
        contestants |= torch_contestants(config, arguments)
        rounds = alternate(contestants, ids, targets, arguments.blocks, arguments.steps)
        peers = [name for name in contestants if not name.startswith("minillm")]
        memory = {name: contestants[name].peak_memory(ids, targets) for name in peers}
    memory = {"minillm": peak_of_minillm(config, ids, targets, arguments), **memory}
    report(rounds, memory, config, batch_size, ours.chosen, arguments)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default=DEFAULT, help="a GPT-2 preset")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "tf32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, help="windows in a batch; by default the preset's")
    parser.add_argument("--context-length", type=int, help="tokens in a window; by default the preset's")
    parser.add_argument("--vocab-size", type=int, help="by default the preset's")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="steps in a block")
    parser.add_argument("--processes", type=int, default=0, help="of minillm; by default as `minillm train` chooses")
    parser.add_argument("--threads-too", action="store_true", help="minillm with threads of one process as well")
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--write", action="store_true", help="write a file in benchmarks/results/")
    arguments = parser.parse_args()
    if find_preset(arguments.preset).architecture != minillm.GPT2.model_type:
        parser.error(f"--preset {arguments.preset} is no GPT-2: the model in PyTorch is one")
    if arguments.device == "cpu" and arguments.dtype != "float32":
        parser.error(f"--dtype {arguments.dtype} is for --device cuda: a CPU only imitates it")
    try:
        to_device(np.zeros(1), arguments.device)
    except UserError as error:
        parser.error(str(error))
    return arguments


# -------------------------------------------------------------------------------------------------------- contestants


class MinillmTrainer:
    """One training step as `minillm train` takes it, of a batch (ids, targets).

    With several processes the others take a step whenever this one does, and it alone goes on from
    `with`. processes: 0 for as many as training would have.
    """

    def __init__(self, config, batch, device="cpu", dtype="float32", processes=0):
        self.device, self.batch = device, batch
        self.model = minillm.GPT2(config, seed=0, dtype=dtype).to(device).train()
        self.optimizer = minillm.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
        parts = default_workers(*batch[0].shape, device)
        self.chosen = choose(Machine(processes=processes), parts, device)
        self.communicator = Workers(self.chosen.processes) if self.chosen.processes > 1 else Alone()
        self.parallel, self.sharded = among_ranks(
            self.model, self.optimizer, parts, self.chosen.threads, self.communicator
        )
        self.parallel.prepare()

    def __enter__(self):
        self.communicator.start()
        self.parallel.__enter__()
        while self.communicator.rank > 0:
            another = np.zeros(1)
            self.communicator.broadcast(another)
            if not another:
                self.communicator.__exit__(None, None, None)  # a child ends here
            self._step(*self.batch)
        return self

    def __exit__(self, *exception):
        self.parallel.__exit__(*exception)
        if self.communicator.size > 1:
            self.communicator.broadcast(np.zeros(1))
            self.communicator.__exit__(*exception)

    def step(self, ids, targets) -> None:
        """ids and targets are those of the batch."""
        if self.communicator.size > 1:
            self.communicator.broadcast(np.ones(1))
        self._step(ids, targets)

    def _step(self, ids, targets) -> None:
        self.parallel.loss_and_gradients(ids, targets)
        _, scale = self.parallel.clip(self.optimizer.parameters, 1.0, 1)
        if self.sharded is None:
            if self.model.device == "cpu":
                self.optimizer.share = self.parallel.share
            self.optimizer.step(scale)
        else:
            self.sharded.step(self.parallel.own_gradients, 1e-3, scale, self.parallel.share, self.parallel.missing)
        self.optimizer.zero_grad()

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            import cupy

            cupy.cuda.Device().synchronize()


def peak_of_minillm(config, ids, targets, arguments) -> int:
    """Bytes of arrays at the peak of the second step, of a trainer of its own: all that it made is counted."""
    with measured_peak(arguments.device) as peak:
        with MinillmTrainer(config, (ids, targets), arguments.device, arguments.dtype, processes=1) as trainer:
            trainer.step(ids, targets)
            peak.reset()
            trainer.step(ids, targets)
            trainer.wait()
        return peak.bytes


def torch_contestants(config, arguments) -> dict:
    """PyTorch eager and compiled; empty where PyTorch is not installed, or knows no GPU where one is asked for."""
    try:
        from benchmarks.torch_gpt2 import TorchTrainer
    except ImportError:
        print('PyTorch is not installed: pip install "minillm[bench]" brings the comparison')
        return {}
    if arguments.device == "cuda" and not torch_sees_a_gpu():
        print("PyTorch is left out: this build of it knows no GPU (torch.cuda.is_available() is false)")
        return {}
    contestants = {"torch": TorchTrainer(config, device=arguments.device, dtype=arguments.dtype)}
    if arguments.without_compile:
        return contestants
    if arguments.device == "cpu" and not shutil.which("g++"):
        print("torch.compile is left out: there is no g++")
        return contestants
    compiled = TorchTrainer(config, device=arguments.device, dtype=arguments.dtype, compiled=True)
    return {**contestants, "torch.compile": compiled}


def torch_sees_a_gpu() -> bool:
    return importlib.import_module("torch").cuda.is_available()


def alternate(contestants: dict, ids, targets, blocks: int, steps: int) -> dict[str, list[float]]:
    """Name -> seconds a step in each block: the median step on the CPU, the mean one on a GPU."""
    rounds = {name: [] for name in contestants}
    for _ in range(blocks):
        for name, contestant in contestants.items():
            for _ in range(NOT_COUNTED):
                contestant.step(ids, targets)
            contestant.wait()
            if contestant.device == "cpu":
                rounds[name].append(median(seconds_of(contestant, ids, targets, 1) for _ in range(steps)))
            else:
                rounds[name].append(seconds_of(contestant, ids, targets, steps) / steps)
    return rounds


def seconds_of(contestant, ids, targets, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        contestant.step(ids, targets)
    contestant.wait()
    return time.perf_counter() - started


# ------------------------------------------------------------------------------------------------------------- report


def report(rounds, memory, config, batch_size, chosen, arguments) -> None:
    tokens = batch_size * config.context_length
    operations = tokens * flops_per_token(config, config.context_length)
    peak = peak_operations(arguments)
    results = {name: figures(times, tokens, operations, peak, memory.get(name)) for name, times in rounds.items()}
    print(
        f"{arguments.preset}: {batch_size} x {config.context_length} tokens a step, {arguments.dtype}, {device_name(arguments)}"
    )
    print(f"  minillm: {chosen}")
    print(f"  {'':<16} {'ms a step':>10} {'tokens/s':>12} {'TFLOP/s':>9} {'of peak':>8} {'peak memory':>12}")
    for name, row in results.items():
        share, size = row["model_flop_utilisation"], row["peak_megabytes"]
        print(
            f"  {name:<16} {row['milliseconds']:>10.2f} {row['tokens_per_second']:>12,.0f} {row['teraflops_per_second']:>9.3f} "
            f"{f'{share:.1%}' if share else 'n/a':>8} {f'{size:,.0f} MB' if size else 'n/a':>12}"
        )
    if arguments.device == "cuda":
        workload = Workload(config, batch_size, None, arguments.dtype, "cuda", False)
        print(f"  minillm's memory as `minillm info` estimates it: {estimate(workload).total / 1e6:,.0f} MB")
    summary = ratios(rounds)
    if arguments.device == "cpu":
        summary |= shares_of_products(config, batch_size, median(rounds["minillm"]))
    if arguments.write:
        name = "_".join(("train_step", *names_of(arguments)))
        shape = {"preset": arguments.preset, "batch_size": batch_size, "context_length": config.context_length}
        where = {"device": device_name(arguments), "dtype": arguments.dtype, "minillm_has": str(chosen)}
        common.write_results(name, {**shape, **where, "results": results, **summary})


def figures(times, tokens, operations, peak, peak_bytes) -> dict:
    seconds = median(times)
    return {
        "milliseconds": seconds * 1e3,
        "tokens_per_second": tokens / seconds,
        "teraflops_per_second": operations / seconds / 1e12,
        "model_flop_utilisation": operations / seconds / peak if peak else None,
        "peak_megabytes": peak_bytes / 1e6 if peak_bytes else None,
    }


def ratios(rounds) -> dict:
    """How many times as long as minillm each peer takes, over pairs of neighbouring blocks; printed, too."""
    summary = {}
    for name in rounds.keys() - {"minillm"}:
        pairs = [theirs / mine for mine, theirs in zip(rounds["minillm"], rounds[name])]
        summary[f"{name}_over_minillm"] = {"median": median(pairs), "lowest": min(pairs), "highest": max(pairs)}
        print(
            f"  {name} takes {median(pairs):.2f} times as long as minillm "
            f"(median of {len(pairs)} pairs of blocks, {min(pairs):.2f} to {max(pairs):.2f})"
        )
    return summary


def shares_of_products(config, batch_size, step_seconds: float) -> dict:
    """What matrix products alone take of a step on the CPU, and what of this machine's own rate the step reaches."""
    operations, seconds = measure_products(config, batch_size)
    peak = measure_peak()
    print(f"  matrix products: {seconds / step_seconds:.0%} of minillm's step")
    print(
        f"  {operations / step_seconds / 1e9:.0f} GFLOP/s in matrix products over the whole step, "
        f"{operations / step_seconds / peak:.0%} of this machine's own rate of {peak / 1e9:.0f}"
    )
    return {
        "matrix_product_share": seconds / step_seconds,
        "step_gflops_per_second": operations / step_seconds / 1e9,
        "machine_gflops_per_second": peak / 1e9,
        "fraction_of_machine_rate": operations / step_seconds / peak,
    }


def names_of(arguments) -> list[str]:
    """What the name of the result file says besides train_step: each preset has its own, on a GPU each dtype, too."""
    if arguments.device == "cuda":
        return [arguments.preset, arguments.dtype]
    return [] if arguments.preset == DEFAULT else [arguments.preset]


def device_name(arguments) -> str:
    """The name of the processor or of the GPU."""
    if arguments.device == "cpu":
        return common.processor()
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def peak_operations(arguments) -> float | None:
    """Operations a second that the device can do at most, None where it is not known."""
    peaks = peaks_of(device_name(arguments))
    rate = getattr(peaks, arguments.dtype) if peaks else None
    return rate * 1e12 if rate else None


if __name__ == "__main__":
    main()
