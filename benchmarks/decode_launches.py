"""python -m minillm.kernels.standin -m benchmarks.decode_launches [--batch-sizes 1 8] [--dtypes float32 bfloat16] [--profile]

What one token costs when text is written on a GPU with a cache: launches by kernel, products, copies and waits, and the time
that the host takes to ask for them. GPT-2 124M and a Llama of the shape of SmolLM2-135M, after a prompt of 128 tokens.

Weights are zero and nothing is computed, so that a token takes the host's time alone. Launches are those of a real GPU; the
host's time lacks what the driver takes for each launch, about 1 to 2 microseconds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import Counter
from statistics import median

import numpy as np

import minillm
from minillm.generation.decoder import Decoder
from minillm.kernels.standin.recording import MatrixProduct, counts, recorded

PROMPT, WARM_UP, TOKENS = 128, 5, 30
SMOLLM2 = dict(n_layer=30, n_head=9, n_kv_head=3, d_model=576, d_ff=1536, vocab_size=49152, tie_embeddings=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    parser.add_argument("--kernels", action="store_true", help="list the launches by kernel")
    parser.add_argument("--profile", action="store_true", help="where the host's time goes")
    chosen = parser.parse_args()
    for dtype in chosen.dtypes:
        for name, model in models(dtype):
            for batch_size in chosen.batch_sizes:
                print(f"{name}, {dtype}, batch {batch_size}:")
                measure(model, batch_size, chosen)


def models(dtype: str):
    """Name and model, its weights zero, on the GPU."""
    yield "GPT-2 124M", _zeros(minillm.GPT2(minillm.GPT2Config(), seed=None, dtype=dtype))
    yield "Llama 135M", _zeros(minillm.Llama(minillm.LlamaConfig(**SMOLLM2), seed=None, dtype=dtype))


def _zeros(model):
    for parameter in model.parameters().values():
        parameter.value = np.zeros(parameter.value.shape, np.float32)
    return model.to("cuda").eval()


def measure(model, batch_size: int, chosen) -> None:
    decoder = Decoder(model)
    decoder.read(np.ones((batch_size, PROMPT), np.int64))
    token = np.ones((batch_size, 1), np.int64)
    for _ in range(WARM_UP):
        decoder.read(token).get()
    before = counts()
    with recorded() as calls:
        decoder.read(token)
    asked = {name: number - before[name] for name, number in counts().items()}
    times = []
    for _ in range(TOKENS):
        started = time.thread_time()
        decoder.read(token).get()
        times.append(1e3 * (time.thread_time() - started))
    print(f"    {len(calls)} launches and products, host {median(times):.2f} ms a token (shortest {min(times):.2f})")
    print("    asked:", ", ".join(f"{name} {number:,}" for name, number in asked.items() if number))
    if chosen.kernels:
        by_name = Counter("matrix products" if isinstance(call, MatrixProduct) else call.name for call in calls)
        for kernel, count in by_name.most_common():
            print(f"    {count:6d}  {kernel[:100]}")
    if chosen.profile:
        with cProfile.Profile() as profile:
            for _ in range(TOKENS):
                decoder.read(token)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
