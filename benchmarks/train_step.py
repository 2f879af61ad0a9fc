"""python -m benchmarks.train_step: a whole training step, minillm beside PyTorch eager, in one run.

The same model, batch, clipping and optimizer in both. They take turns in blocks of steps, so that both see the same
machine, and the first steps of each block are not counted (caches and sleeping threads). Printed: milliseconds and tokens
a second (median over blocks), their ratio block by block, the share of minillm's step that its matrix products alone
take, and the fraction of this machine's own rate of matrix products that the step reaches.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np

import minillm
from benchmarks import common
from minillm.models.presets import find_preset
from minillm.optim import clip_scale, global_norm
from minillm.training.data_parallel import DataParallel, default_workers

NOT_COUNTED = 2  # steps at the beginning of a block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="shakespeare-char-cpu")
    parser.add_argument("--batch-size", type=int, help="windows in a batch; by default the preset's")
    parser.add_argument("--vocab-size", type=int, help="by default 65 (tiny shakespeare), 50257 for the gpt2 presets")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="steps in a block")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/train_step.json")
    arguments = parser.parse_args()

    preset = find_preset(arguments.preset)
    vocab_size = arguments.vocab_size or (50257 if arguments.preset.startswith("gpt2") else 65)
    config = minillm.GPT2Config(**{**preset.model, "dropout": 0.0}, vocab_size=vocab_size)
    batch_size = arguments.batch_size or preset.training["batch_size"]
    generator = np.random.default_rng(0)
    ids, targets = generator.integers(0, vocab_size, (2, batch_size, config.context_length))

    with MinillmTrainer(config, batch_size) as ours:
        contestants = {"minillm": ours.step}
        if (peer := torch_step(config)) is not None:
            contestants["torch"] = peer
        rounds = alternate(contestants, ids, targets, arguments.blocks, arguments.steps)
    report(rounds, config, batch_size, arguments)


class MinillmTrainer:
    """One training step as `minillm train` takes it."""

    def __init__(self, config, batch_size):
        self.model = minillm.GPT2(config, seed=0)
        self.optimizer = minillm.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
        self.parallel = DataParallel(self.model, default_workers(batch_size, config.context_length))

    def __enter__(self):
        self.parallel.__enter__()
        return self

    def __exit__(self, *exception):
        self.parallel.__exit__(*exception)

    def step(self, ids, targets) -> None:
        self.parallel.loss_and_gradients(ids, targets)
        self.optimizer.step(clip_scale(global_norm(self.optimizer.parameters), 1.0))
        self.optimizer.zero_grad()


def torch_step(config):
    """The step of PyTorch, or None where it is not installed."""
    try:
        from benchmarks.torch_gpt2 import TorchTrainer
    except ImportError:
        print('PyTorch is not installed: pip install "minillm[bench]" brings the comparison')
        return None
    return TorchTrainer(config).step


def alternate(contestants: dict, ids, targets, blocks: int, steps: int) -> dict[str, list[float]]:
    """Name -> seconds a step, the median of each block."""
    rounds = {name: [] for name in contestants}
    for _ in range(blocks):
        for name, step in contestants.items():
            times = []
            for _ in range(steps + NOT_COUNTED):
                started = time.perf_counter()
                step(ids, targets)
                times.append(time.perf_counter() - started)
            rounds[name].append(median(times[NOT_COUNTED:]))
    return rounds


def report(rounds, config, batch_size, arguments) -> None:
    tokens = batch_size * config.context_length
    step_flops, product_seconds = measure_products(config, batch_size)
    peak = measure_peak()
    ours = median(rounds["minillm"])
    results = {
        name: {"milliseconds": median(times) * 1e3, "tokens_per_second": tokens / median(times)}
        for name, times in rounds.items()
    }
    print(f"{arguments.preset}: {batch_size} x {config.context_length} tokens a step, float32")
    for name, row in results.items():
        print(f"  {name:<8} {row['milliseconds']:8.1f} ms a step  {row['tokens_per_second']:10,.0f} tokens/s")
    summary = {
        "matrix_product_share": product_seconds / ours,
        "step_gflops_per_second": step_flops / ours / 1e9,
        "machine_gflops_per_second": peak / 1e9,
        "fraction_of_machine_rate": step_flops / ours / peak,
    }
    if "torch" in rounds:
        ratios = [theirs / mine for mine, theirs in zip(rounds["minillm"], rounds["torch"])]
        summary |= {"torch_over_minillm": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        print(
            f"  torch takes {median(ratios):.2f} times as long as minillm "
            f"(median of {len(ratios)} pairs of blocks, {min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(f"  matrix products: {summary['matrix_product_share']:.0%} of the step")
    print(
        f"  {summary['step_gflops_per_second']:.0f} GFLOP/s in matrix products over the whole step, "
        f"{summary['fraction_of_machine_rate']:.0%} of this machine's own rate of {peak / 1e9:.0f}"
    )
    if arguments.write:
        common.write_results("train_step", {"preset": arguments.preset, "results": results, **summary})


def measure_products(config, batch_size) -> tuple[float, float]:
    """(operations, seconds) of all matrix products of a step, done by themselves on all cores."""
    n, c, f = batch_size * config.context_length, config.d_model, config.d_ff
    generator = np.random.default_rng(0)
    seconds = operations = 0.0
    shapes = [(c, 3 * c), (c, c), (c, f), (f, c)]
    for rows, inner, columns, count in [
        product
        for i, o in shapes
        for product in ((n, i, o, config.n_layer), (n, o, i, config.n_layer), (i, n, o, config.n_layer))
    ] + [(n, c, config.vocab_size, 1), (n, config.vocab_size, c, 1), (config.vocab_size, n, c, 1)]:
        a = generator.standard_normal((rows, inner), dtype=np.float32)
        b = generator.standard_normal((inner, columns), dtype=np.float32)
        seconds += count * common.median_seconds(lambda a=a, b=b: a @ b)
        operations += count * 2 * rows * inner * columns
    heads, time_, width = batch_size * config.n_head, config.context_length, config.d_model // config.n_head
    wide = generator.standard_normal((heads, time_, width), dtype=np.float32)
    square = generator.standard_normal((heads, time_, time_), dtype=np.float32)
    # forward: scores and values; backward: dP like the scores, and dv, dq, dk like the values
    scores = common.median_seconds(lambda: wide @ wide.transpose(0, 2, 1))
    values = common.median_seconds(lambda: square @ wide)
    seconds += config.n_layer * (2 * scores + 4 * values)
    operations += config.n_layer * 6 * 2 * heads * time_ * time_ * width
    return operations, seconds


def measure_peak(size: int = 2048) -> float:
    """Operations a second of one large float32 matrix product on all cores."""
    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    return 2 * size**3 / common.median_seconds(lambda: a @ a, repeats=7)


if __name__ == "__main__":
    main()
