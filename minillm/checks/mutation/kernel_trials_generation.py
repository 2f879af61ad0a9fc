"""Trials of the kernels of generation, which have no case: greedy choice, products of few rows."""

from __future__ import annotations

from itertools import product

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.checks.mutation.kernel_trial import BFLOAT16, DEVICE, Trial, normal
from minillm.kernels import largest, skinny_matmul


def largest_ids() -> list[Trial]:
    return [_largest_of(width) for width in (1, 3, largest.THREADS, 2 * largest.THREADS + 77)]


def _largest_of(width: int) -> Trial:
    x = normal(width, 8, width)
    x[1, [width // 5, width // 2, width - 1]] = 9  # the lowest of equal ones
    x[2] = -np.inf
    x[2, width // 2] = -1e30
    x[3, width // 3] = np.nan
    x[4, width - 1] = np.inf
    x[5] = -np.inf
    x[6, 0] = 20
    x[7, min(width - 1, largest.THREADS)] = 20  # the first number of a thread's second turn

    def expected():
        found = np.where(np.isfinite(x.max(axis=1)), x.argmax(axis=1), -1)
        return {"ids": found}

    return Trial(f"width {width}", lambda: {"ids": to_host(largest.largest(to_device(x, DEVICE)))}, expected, 0.0)


def products() -> list[Trial]:
    problems = [  # rows of x, inputs, outputs of each matrix, stored as (O, I), with a residual
        (1, 64, (70,), True, True),
        (1, 264, (9, 3, 12), True, False),
        (3, 40, (33, 5), True, False),
        (8, 65, (129,), True, True),
        (11, 40, (9, 5), True, False),
        (16, 24, (31, 7, 8), True, False),
        (1, 40, (33,), False, True),
        (4, 19, (64,), False, False),
        (7, 33, (70,), False, True),
        (11, 50, (32,), False, True),
    ]
    return [_product(*problem, dtype) for dtype, problem in product(("float32", "bfloat16"), problems)]


def _product(rows, inputs, outputs, transposed, has_residual, dtype) -> Trial:
    x, shapes = normal(0, rows, inputs, dtype=dtype), [(n, inputs) if transposed else (inputs, n) for n in outputs]
    weights = [normal(n, *shape, dtype=dtype) for n, shape in enumerate(shapes, start=1)]
    biases = [None if n == 1 else normal(9 + n, count) for n, count in enumerate(outputs)]
    residual = normal(8, rows, outputs[0], dtype=dtype) if has_residual else None

    def run():
        def place(array):
            return None if array is None else to_device(array, DEVICE)

        ys = skinny_matmul.skinny_matmul(
            place(x), [*map(place, weights)], [*map(place, biases)], transposed, residual=place(residual)
        )
        return {f"y[{n}]": to_host(y) for n, y in enumerate(ys)}

    def expected():
        found = {}
        for n, (weight, bias) in enumerate(zip(weights, biases)):
            weight = weight.astype(np.float64)
            y = x.astype(np.float64) @ (weight.T if transposed else weight) + (0 if bias is None else bias)
            found[f"y[{n}]"] = y if residual is None else y + residual.astype(np.float64)
        return found

    label = f"{rows}-{inputs}-{outputs}, {'(O, I)' if transposed else '(I, O)'}, {dtype}"
    return Trial(label, run, expected, 2e-6 if dtype == "float32" else BFLOAT16)
