"""python -m minillm.kernels.standin -m benchmarks.launches [--batch-size 16] [--context 1024] [--dtype bfloat16] [--profile]

What one training step of GPT-2 124M (or of a Llama of its size, --model llama) asks of the GPU, and how long the host takes to
ask for it: launches by kernel, products by shape, elements and bytes that CuPy's own kernels work on, copies and waits, the
memory pool beside the estimate. --profile: cProfile.

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
from typing import NamedTuple

import numpy as np

import minillm
from minillm.kernels.standin.recording import Kernel, MatrixProduct, counts, recorded
from minillm.models.architectures import make_model
from minillm.optim import clip
from minillm.profiling.memory import Workload, estimate
from minillm.profiling.memory_measure import measured_peak
from minillm.training.data_parallel import DataParallel

WARM_UP = 2
# dtype -> bytes; a number of the host, "int" or "float", is none of an array, and every other dtype has 8.
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "int32": 4, "bool": 1, "int8": 1, "uint8": 1, "int": 0, "float": 0}


class Training:
    """A model whose weights are zero, and one step of its training."""

    def __init__(self, config, batch_size: int, dtype: str):
        model = make_model(config, None, dtype)
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
    parser.add_argument("--model", default="gpt2", choices=("gpt2", "llama"))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "tf32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    config = config_of(chosen.model, chosen.context)
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
    asked = since(before)
    print("a step:", ", ".join(f"{name} {number:,}" for name, number in asked.items()))
    show_kernels(calls)
    show_products(calls)
    if chosen.profile:
        with cProfile.Profile() as profile:
            training.step()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def config_of(model: str, context: int):
    """GPT-2 124M, or a Llama of its width and depth."""
    if model == "gpt2":
        return minillm.GPT2Config(context_length=context)
    shape = dict(n_layer=12, n_head=12, n_kv_head=4, d_model=768, d_ff=2048, tie_embeddings=True)
    return minillm.LlamaConfig(vocab_size=50257, context_length=context, **shape)


def since(before: dict[str, int]) -> dict[str, int]:
    """What was asked for since `before`, which `counts` returned."""
    return {name: number - before[name] for name, number in counts().items()}


def show_host_time(training, steps: int) -> None:
    times = []
    for _ in range(steps):
        started = time.thread_time()
        training.step()
        times.append(1e3 * (time.thread_time() - started))
    print(f"host: {median(times):.1f} ms of one core a step (median of {steps}, shortest {min(times):.1f})")


class OwnPasses(NamedTuple):
    """What CuPy's own kernels work on: one element a thread, with its bytes of all arrays that are read or written."""

    elements: int
    bytes: int


def own_passes(calls) -> OwnPasses:
    """The sum over CuPy's own kernels among the calls.

    Their names end with the dtypes of their arrays, such as cupy_copy__float32_bfloat16. An element of a kernel whose name
    does not, such as cupy_fill, counts as a float32.
    """
    passes = [call for call in calls if isinstance(call, Kernel) and call.name.startswith("cupy_")]
    return OwnPasses(
        sum(call.threads for call in passes), sum(call.threads * bytes_of_element(call.name) for call in passes)
    )


def bytes_of_element(name: str) -> int:
    """
    >>> [bytes_of_element(name) for name in ("cupy_copy__float32_bfloat16", "cupy_arange__int_int_int64", "cupy_fill")]
    [6, 8, 4]
    """
    dtypes = name.partition("__")[2]
    return sum(BYTES.get(dtype, 8) for dtype in dtypes.split("_")) if dtypes else 4


def show_kernels(calls) -> None:
    """Launches by kernel; for CuPy's own also the threads, one for each element."""
    number, threads = Counter(), defaultdict(int)
    for call in calls:
        number[call.name if not isinstance(call, MatrixProduct) else "matrix products"] += 1
        if isinstance(call, Kernel) and call.name.startswith("cupy_"):
            threads[call.name] += call.threads
    own = own_passes(calls)
    print(f"CuPy's own kernels: {own.elements / 1e6:,.0f} M elements, {own.bytes / 1e6:,.0f} MB")
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
