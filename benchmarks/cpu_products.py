"""What a CPU does in matrix products alone: those of a training step by themselves, and one large one."""

from __future__ import annotations

import numpy as np

from benchmarks import common


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
