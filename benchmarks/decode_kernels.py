"""python -m benchmarks.decode_kernels [--rows 1 8] [--columns 128 1024 8192] [--dtypes float32 bfloat16] [--calls 20]

The kernels of a generated token on a GPU, beside the speed of its memory: products of a few rows with the weights of GPT-2 124M
and SmolLM2-135M, and attention over a cache. Bytes are those that have to be read, weights or keys and values, and written. A
product by cuBLAS is beside ours. Inputs are taken in turn, so that none is in the L2 cache still (gpu_timing.py).
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.gpu_timing import CALLS, device_seconds, sets_of_inputs
from minillm.backend.arrays import to_device
from minillm.backend.matmul import matmul
from minillm.backend.precision import activation_dtype
from minillm.kernels.attention.decode import Heads, append, decode_attention
from minillm.kernels.skinny_matmul import skinny_matmul

# what it is, inputs, outputs of each matrix, stored as (O, I)
PRODUCTS = [
    ("GPT-2 c_attn", 768, (2304,), False),
    ("GPT-2 attention's c_proj", 768, (768,), False),
    ("GPT-2 c_fc", 768, (3072,), False),
    ("GPT-2 c_proj", 3072, (768,), False),
    ("GPT-2 head", 768, (50257,), True),
    ("SmolLM2 q, k, v", 576, (576, 192, 192), True),
    ("SmolLM2 gate, up", 576, (1536, 1536), True),
    ("SmolLM2 down", 1536, (576,), True),
]
HEADS = [("GPT-2", 12, 12, 64), ("SmolLM2", 9, 3, 64), ("Llama 3 8B", 32, 8, 128)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="texts at a time")
    parser.add_argument("--columns", type=int, nargs="+", default=[128, 1024, 8192], help="tokens in the cache")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    parser.add_argument("--calls", type=int, default=CALLS)
    chosen = parser.parse_args()
    for dtype in chosen.dtypes:
        for rows in chosen.rows:
            for name, *sizes in PRODUCTS:
                show(f"{name}, {dtype}, {rows} rows", *product_seconds(rows, *sizes, dtype, chosen.calls))
            for name, *heads in HEADS:
                for columns in chosen.columns:
                    title = f"attention of {name}, {dtype}, {rows} texts of {columns}"
                    show(title, *attention_seconds(rows, columns, *heads, dtype, chosen.calls))


def show(title: str, total_bytes: int, seconds: float, others: dict[str, float]) -> None:
    beside = "".join(f", {name} {1e6 * other:.1f} us" for name, other in others.items())
    print(f"{title:48s} {1e6 * seconds:9.1f} us {total_bytes / seconds / 1e9:8.0f} GB/s{beside}", flush=True)


def product_seconds(rows: int, inputs: int, outputs: tuple, transposed: bool, dtype: str, calls: int):
    weight_bytes = inputs * sum(outputs) * activation_dtype(dtype).itemsize
    sets = sets_of_inputs(weight_bytes, calls)
    x = numbers((rows, inputs), dtype)
    weights = [
        [numbers((count, inputs) if transposed else (inputs, count), dtype) for count in outputs] for _ in range(sets)
    ]  # fmt: skip
    seconds = device_seconds(lambda number: skinny_matmul(x, weights[number % sets], None, transposed), calls)

    def by_cublas(number):
        for weight in weights[number % sets]:
            matmul(x, weight.T if transposed else weight)

    return weight_bytes, seconds, {"cuBLAS": device_seconds(by_cublas, calls)}


def attention_seconds(B: int, T: int, H: int, H_kv: int, D: int, dtype: str, calls: int):
    cache_bytes = 2 * B * H_kv * T * D * activation_dtype(dtype).itemsize
    sets = sets_of_inputs(cache_bytes, calls)
    caches = [[numbers((B, H_kv, T, D), dtype) for _ in "kv"] for _ in range(sets)]
    qkv, place = numbers((B, (H + 2 * H_kv) * D), dtype), to_device(np.array([T - 1]), "cuda")
    q, k, v = (Heads(qkv, start * D, count) for start, count in ((0, H), (H, H_kv), (H + H_kv, H_kv)))
    seconds = device_seconds(lambda number: decode_attention(q, *caches[number % sets], place), calls)
    writing = device_seconds(lambda number: append(q, k, v, *caches[number % sets], place), calls)
    return cache_bytes, seconds, {"writing k and v": writing}


def numbers(shape, dtype: str):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    return to_device(x.astype(activation_dtype(dtype)), "cuda")


if __name__ == "__main__":
    main()
