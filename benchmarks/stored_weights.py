"""Weights as their file holds them, beside float32: tokens a second, and the memory that is taken.

    python -m benchmarks.stored_weights [--write]

A Llama of SmolLM2-135M's widths and vocabulary with fewer layers and random weights, in each format. All are measured in
turns: a token after another, a batch of 8, and a prompt of 128 tokens. Memory is what the weights take, and the largest that is
allocated beside them while a prompt is read and tokens are written.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from statistics import median

import numpy as np

import minillm
from benchmarks.common import write_results
from minillm.files.number_formats import FORMATS
from minillm.generation.decoder import Decoder
from minillm.layers.stored_weight import StoredWeight
from minillm.pretrained.stored_weights import ROUNDED, round_matrices

CONFIG = minillm.LlamaConfig(
    vocab_size=49152, context_length=512, n_layer=4, n_head=9, n_kv_head=3, d_model=576, d_ff=1536, tie_embeddings=True
)
KINDS = ("float32", "float16", "bfloat16", "Q8_0", "Q4_0")
PROMPT, BATCH, TOKENS, ROUNDS = 128, 8, 5, 3


def make(kind: str):
    """A model whose matrices are random numbers of about 0.02 in a format."""
    model, rng = minillm.Llama(CONFIG, seed=None), np.random.default_rng(0)
    for parameter in model.parameters().values():
        shape = parameter.value.shape
        if len(shape) == 2 and kind in FORMATS:
            number_format = FORMATS[kind]
            groups = (*shape[:-1], shape[-1] // number_format.group, number_format.group_bytes)
            stored = rng.integers(0, 256, groups, np.uint8)
            stored[..., :2] = np.full(1, 0.02 / (74 if kind == "Q8_0" else 4.6), "<f2").view(np.uint8)
            parameter.value, parameter.frozen = StoredWeight(stored.reshape(shape[0], -1), number_format), True
        else:
            numbers = rng.standard_normal(shape, np.float32) * np.float32(0.02)
            parameter.value = numbers if len(shape) == 2 else np.ones(shape, np.float32)
    if kind in ROUNDED:
        round_matrices(model, kind)
    return model.eval()


def seconds(model, rows: int) -> tuple[float, float]:
    """Of a prompt of PROMPT tokens in all, and of each token after it (the median), for so many texts."""
    ids, decoder, times = np.random.default_rng(1).integers(0, 49152, (rows, PROMPT // rows)), Decoder(model), []
    for part in (ids, *[ids[:, :1]] * TOKENS):
        started = time.perf_counter()
        decoder.read(part)
        times.append(time.perf_counter() - started)
    return times[0], median(times[2:])  # the first one copies weights side by side


def allocated(model) -> int:
    """The largest number of bytes allocated at a time while a text is read and continued."""
    tracemalloc.start()
    seconds(model, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure() -> list[dict]:
    """A row of figures for each of KINDS."""
    models = {kind: make(kind) for kind in KINDS}
    times = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, model in models.items():
            times[kind].append((*seconds(model, 1), seconds(model, BATCH)[1]))
    rows = []
    for kind, model in models.items():
        prompt, token, batch = (median(each) for each in zip(*times[kind]))
        rows.append({
            "weights": kind,
            "tokens_per_second": 1 / token,
            "tokens_per_second_batch_of_8": BATCH / batch,
            "prompt_tokens_per_second": PROMPT / prompt,
            "weights_megabytes": sum(p.peek().nbytes for p in model.parameters().values()) / 1e6,
            "allocated_beside_them_megabytes": allocated(model) / 1e6,
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure, print, and write benchmarks/results/stored_weights.json with --write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/stored_weights.json")
    arguments = parser.parse_args()
    rows = measure()
    for row in rows:
        print(
            "  ".join(
                f"{name} {value}" if isinstance(value, str) else f"{name} {value:.1f}" for name, value in row.items()
            )
        )
    if arguments.write:
        write_results("stored_weights", {"prompt": PROMPT, "layers": CONFIG.n_layer, "rows": rows})


if __name__ == "__main__":
    main()
