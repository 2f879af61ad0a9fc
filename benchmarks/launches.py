"""python -m minillm.kernels.standin -m benchmarks.launches [--batch-size 16] [--context 1024] [--dtype bfloat16] [--profile]

What one training step of GPT-2 124M asks of the GPU, and how long the host takes to ask for it: launches by kernel, products by
shape, elements that CuPy's own kernels work on, copies and waits, the memory pool beside the estimate. --profile: cProfile.

Weights are zero and nothing is computed, so that a step takes the host's time alone. Launches and memory are those of a real
GPU; the host's time lacks what the driver takes for each launch, about 1 to 2 microseconds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import Counter, defaultdict
from statistics import median

import numpy as np

import minillm
from minillm.kernels.standin.recording import Kernel, MatrixProduct, counts, recorded
from minillm.optim import clip
from minillm.profiling.memory import Workload, estimate
from minillm.profiling.memory_measure import measured_peak
from minillm.training.data_parallel import DataParallel

WARM_UP = 2


class Training:
    """A model whose weights are zero, and one step of its training."""

    def __init__(self, config, batch_size: int, dtype: str):
        model = minillm.GPT2(config, seed=None, dtype=dtype)
        for parameter in model.parameters().values():
            parameter.value = np.zeros(parameter.value.shape, np.float32)
        self.model = model.to("cuda").train()
        self.optimizer = minillm.AdamW(self.model.parameters())
        self.parallel = DataParallel(self.model, 1)
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, config.context_length + 1))
        self.batch = tokens[:, :-1], tokens[:, 1:]

    def step(self) -> None:
        self.parallel.loss_and_gradients(*self.batch)
        _, scale = clip(self.optimizer.parameters, 1.0)
        self.optimizer.step(scale)
        self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "tf32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    config = minillm.GPT2Config(context_length=chosen.context)
    with measured_peak("cuda") as peak:
        training = Training(config, chosen.batch_size, chosen.dtype)
        for _ in range(WARM_UP):
            peak.reset()
            training.step()
    estimated = estimate(Workload(config, chosen.batch_size, None, chosen.dtype, "cuda", False)).total
    print(f"memory: {peak.bytes / 1e6:,.1f} MB of the pool in use at most, {estimated / 1e6:,.1f} MB estimated")
    show_host_time(training, chosen.steps)
    before = counts()
    with recorded() as calls:
        training.step()
    asked = {name: number - before[name] for name, number in counts().items()}
    print("a step:", ", ".join(f"{name} {number:,}" for name, number in asked.items()))
    show_kernels(calls)
    show_products(calls)
    if chosen.profile:
        with cProfile.Profile() as profile:
            training.step()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def show_host_time(training, steps: int) -> None:
    times = []
    for _ in range(steps):
        started = time.thread_time()
        training.step()
        times.append(1e3 * (time.thread_time() - started))
    print(f"host: {median(times):.1f} ms of one core a step (median of {steps}, shortest {min(times):.1f})")


def show_kernels(calls) -> None:
    """Launches by kernel; for CuPy's own also the threads, one for each element."""
    number, threads = Counter(), defaultdict(int)
    for call in calls:
        number[call.name if not isinstance(call, MatrixProduct) else "matrix products"] += 1
        if isinstance(call, Kernel) and call.name.startswith("cupy_"):
            threads[call.name] += call.threads
    print(f"{len(calls)} launches and products:")
    for name, count in number.most_common():
        print(f"{count:6d}  {name[:90]:90s}" + (f" {threads[name] / 1e6:9.1f} M threads" if threads[name] else ""))


def show_products(calls) -> None:
    number = Counter(call for call in calls if isinstance(call, MatrixProduct))
    print(f"products, {sum(call.flop * count for call, count in number.items()) / 1e12:.2f} TFLOP:")
    for call, count in sorted(number.items(), key=lambda item: -item[0].flop * item[1]):
        print(
            f"{count:4d} x {call.name} {call.operations} m {call.m} n {call.n} k {call.k} ld {call.steps} {call.operands} -> "
            f"{call.result}, {call.compute}{', added' if call.added else ''}{'' if call.aligned else ', not aligned'}: "
            f"{call.flop * count / 1e12:.3f} TFLOP"
        )


if __name__ == "__main__":
    main()
