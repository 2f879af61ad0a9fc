"""What the cases of kernels do not try: results that NumPy's functions refuse to compute, arguments
that another layer passes, and kernels without a case.

A trial runs a kernel's launcher and has what should come out, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import bfloat16
from minillm.checks.agreement import kernel_results, reference_results, relative_error
from minillm.checks.case import BACKWARD, FORWARD, Case, Problem, at
from minillm.checks.cases_activations import GELU, SWIGLU
from minillm.checks.cases_linear import BIAS
from minillm.checks.cases_norms import RESIDUAL_BIAS
from minillm.kernels import (
    adamw,
    columns,
    cross_entropy,
    global_norm,
    largest,
    layer_norm,
    rms_norm,
    skinny_matmul,
    swiglu,
)
from minillm.kernels import embedding as embedding_kernel
from minillm.layers import layer_norm as layer_norm_layer
from minillm.layers import rms_norm as rms_norm_layer

DEVICE = "cudasim"
BFLOAT16 = 2**-8  # relative error of a number that was rounded to bfloat16 once


class Trial(NamedTuple):
    """run, expected: the results by name. allowed: the relative error, norm-wise, of all or by
    name.
    """

    label: str
    run: Callable[[], dict[str, np.ndarray]]
    expected: Callable[[], dict[str, np.ndarray]]
    allowed: float | Callable[[str], float] = FORWARD

    def limit(self, name: str) -> float:
        """The relative error that a result may have."""
        return self.allowed(name) if callable(self.allowed) else self.allowed

    def __str__(self) -> str:
        return self.label


def difference(found, expected) -> float:
    """The relative error; NaN equals NaN, and an infinity itself."""
    found, expected = np.asarray(found).astype(np.float64), np.asarray(expected).astype(np.float64)
    if found.shape != expected.shape:
        return np.inf
    special = ~np.isfinite(expected)
    if not np.array_equal(found[special], expected[special], equal_nan=True) or not np.isfinite(found[~special]).all():
        return np.inf
    return relative_error(found[~special], expected[~special])


def trials_of(kernel: str) -> list[Trial]:
    """The trials of a kernel; none for one whose case has all."""
    return TRIALS.get(kernel, list)()


def _normal(seed: int, *shape: int, dtype="float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(bfloat16() if dtype == "bfloat16" else dtype)


# --------------------------------------------------------------------------------------- embedding


def _unknown_ids() -> list[Trial]:
    """Ids outside of the vocabulary: NaN forward, and no gradient."""
    return [_with_unknown_ids(ids) for ids in ((2, -1, 0, 3, 4, -7, 2), (-1,) * 40 + (0, 1, 1) + (3,) * 70)]


def _with_unknown_ids(ids: tuple[int, ...]) -> Trial:
    weight, dy = _normal(0, 3, 5), _normal(1, len(ids), 5)

    def run():
        y, saved = embedding_kernel.embedding_forward(to_device(np.array(ids), DEVICE), to_device(weight, DEVICE))
        return {"y": to_host(y), "dweight": to_host(embedding_kernel.embedding_backward(to_device(dy, DEVICE), saved))}

    def expected():
        y, dweight = np.full((len(ids), 5), np.nan), np.zeros((3, 5))
        for row, token in enumerate(ids):
            if 0 <= token < 3:
                y[row] = weight[token]
                dweight[token] += dy[row]
        return {"y": y, "dweight": dweight}

    return Trial(f"{len(ids)} ids, some unknown", run, expected)


# --------------------------------------------------------------------------------------- few blocks


def _with_few_blocks(launcher, *cases: Case) -> list[Trial]:
    """The launcher's limit of blocks is 1: each thread takes several turns."""
    return [_one_with_few_blocks(launcher, case, at(41, width)) for case in cases for width in (5, 40)]


def _one_with_few_blocks(launcher, case: Case, problem: Problem) -> Trial:
    def run():
        limit, launcher.MAX_BLOCKS = launcher.MAX_BLOCKS, 1
        try:
            forward, backward = kernel_results(case, case.kernel[0], problem)
        finally:
            launcher.MAX_BLOCKS = limit
        return forward | backward

    def expected():
        forward, backward = reference_results(case, problem)
        return forward | backward

    return Trial(f"{problem}, one block", run, expected, lambda name: BACKWARD if name.startswith("d") else FORWARD)


# ------------------------------------------------------------------------------------------- adamw


def _adamw_steps() -> list[Trial]:
    """An eps that matters, copies in bfloat16, a scale that is no number, rounding alone."""
    return [_adamw_step(1.0, True), _adamw_step(0.5, False), _adamw_step(np.nan, True), _rounded()]


def _adamw_step(scale: float, decoupled: bool) -> Trial:
    shapes = ((3, 5), (300,), (1,), (8,))
    lists = [[_normal(10 * n + m, *shape) for m, shape in enumerate(shapes)] for n in range(4)]
    lists[3] = [np.abs(each) for each in lists[3]]
    settings = dict(lr=0.1, betas=(0.9, 0.99), eps=0.5, weight_decays=[0.1, 0.0, 0.2, 0.0], step=2, decoupled=decoupled)

    def run():
        values, gradients, first, second = ([to_device(x.copy(), DEVICE) for x in each] for each in lists)
        copies = [None if n == 1 else to_device(np.zeros(x.shape, bfloat16()), DEVICE) for n, x in enumerate(values)]
        adamw.adamw_update(values, gradients, first, second, gradient_scale=scale, copies=copies, **settings)
        copied = {f"copy[{n}]": to_host(x).astype(np.float32) for n, x in enumerate(copies) if x is not None}
        named = zip(("value", "first", "second"), (values, first, second))
        return copied | {f"{name}[{n}]": to_host(x) for name, each in named for n, x in enumerate(each)}

    def expected():
        values, gradients, first, second = ([x.astype(np.float64) for x in each] for each in lists)
        decays = settings["weight_decays"] if np.isfinite(scale) else []
        for n, decay in enumerate(decays):
            g = gradients[n] * scale + (0 if decoupled else decay * values[n])
            first[n], second[n] = 0.9 * first[n] + 0.1 * g, 0.99 * second[n] + 0.01 * g * g
            step = first[n] / (1 - 0.9**2) / (np.sqrt(second[n] / (1 - 0.99**2)) + 0.5)
            values[n] = values[n] - 0.1 * (step + (decay * values[n] if decoupled else 0))
        copied = {f"copy[{n}]": x for n, x in enumerate(values) if n != 1}
        named = zip(("value", "first", "second"), (values, first, second))
        return copied | {f"{name}[{n}]": x for name, each in named for n, x in enumerate(each)}

    label = f"a gradient times {scale}, {decoupled=}, with copies"
    return Trial(label, run, expected, lambda name: BFLOAT16 if name.startswith("copy") else FORWARD)


def _rounded() -> Trial:
    values = [_normal(n, *shape) for n, shape in enumerate(((3, 5), (4100,), (1,)))]

    def run():
        copies = [to_device(np.zeros(x.shape, bfloat16()), DEVICE) for x in values]
        adamw.round_to_bfloat16([to_device(x.copy(), DEVICE) for x in values], copies)
        return {f"copy[{n}]": to_host(x).astype(np.float32) for n, x in enumerate(copies)}

    return Trial("copies alone", run, lambda: {f"copy[{n}]": x for n, x in enumerate(values)}, BFLOAT16)


# --------------------------------------------------------------------------- norm of all gradients


def _clipped_norms() -> list[Trial]:
    """With a limit that clips or does not, several batches accumulated, no number, many tensors."""
    three, many = ((3, 4), (1,), (4097,)), ((1,),) * 300
    settings = ((1.0, 1), (1.0, 3), (1e6, 4), (0.0, 2))
    infinite = [_clipped_norm(three, *pair, infinite=True) for pair in settings[1:3]]
    return [*(_clipped_norm(three, *pair) for pair in settings), _clipped_norm(many, 2.0, 2), *infinite]


def _clipped_norm(shapes, max_norm: float, accumulated: int, infinite: bool = False) -> Trial:
    arrays = [_normal(n, *shape) for n, shape in enumerate(shapes)]
    arrays[-1][0] = np.inf if infinite else arrays[-1][0]

    def run():
        found = global_norm.clipped_norm([to_device(each, DEVICE) for each in arrays], max_norm, accumulated)
        return dict(zip(("norm", "scale"), map(to_host, found)))

    def expected():
        norm = np.sqrt(sum(np.square(each.astype(np.float64)).sum() for each in arrays)) / accumulated
        scale = min(1, max_norm / norm) if max_norm else 1
        return {"norm": norm, "scale": scale / accumulated if np.isfinite(norm) else np.nan}

    return Trial(f"{len(shapes)} tensors, at most {max_norm}, {accumulated} batches, {infinite=}", run, expected)


# ----------------------------------------------------------------------------------- cross entropy


def _cross_entropies() -> list[Trial]:
    """Targets outside of the vocabulary, logits of -inf at every place, rows before these, more rows
    than threads.
    """
    return [
        _cross_entropy(9, 67, (-1, 3, 67, -100, 66, 0, 1, 2, 99), 0.2),
        _cross_entropy(6, 3, (-1, 3, 2, 0, 1, -100), 0.0),
        _cross_entropy(5, 67, (66, 30, 40, 50, 60), 0.0, masked=True),
        _cross_entropy(7, 41, (40, 30, 0, 7, -100, 20, 30), 0.1, before=2.5),
        _cross_entropy(600, 3, tuple(n % 4 - 100 * (n % 4 == 3) - 3 * (n % 4 == 3) for n in range(600)), 0.0),
    ]


def _cross_entropy(rows, vocabulary, targets, smoothing, masked=False, before=0.0) -> Trial:
    logits, targets = 3 * _normal(rows, rows, vocabulary), np.array(targets)
    if masked:
        logits[:, : vocabulary // 3] = -np.inf

    def run():
        x, earlier = to_device(logits.copy(), DEVICE), to_device(np.array(before), DEVICE) if before else 0.0
        place = to_device(targets, DEVICE)
        loss, saved = cross_entropy.cross_entropy_forward(x, place, label_smoothing=smoothing, before=earlier)
        return {"loss": to_host(loss), "dlogits": to_host(saved)}

    def expected():
        x, counted = logits.astype(np.float64), targets != -100
        known = counted & (targets >= 0) & (targets < vocabulary)
        largest = x.max(axis=1, keepdims=True)
        lse = largest[:, 0] + np.log(np.exp(x - largest).sum(axis=1))
        wanted = np.full(x.shape, smoothing / vocabulary)
        wanted[known, targets[known]] += 1 - smoothing
        with np.errstate(invalid="ignore"):
            at_target = np.where(wanted > 0, wanted * x, 0).sum(axis=1)
        losses = np.where(counted, np.where(known, lse - at_target, np.nan), 0)
        dlogits = (np.exp(x - lse[:, None]) - wanted) * counted[:, None] / counted.sum()
        return {"loss": before + losses.sum() / counted.sum(), "dlogits": dlogits}

    label = f"{rows}-{vocabulary}, targets {targets.min()} to {targets.max()}, {masked=}, {before=}"
    return Trial(label, run, expected, 1e-5)


# ------------------------------------------------------------------------------------------- norms


def _with_dsum(name: str, kernel, layer) -> list[Trial]:
    """Another gradient of x is added to dx, as in a residual block."""
    return [_one_with_dsum(name, kernel, layer, *shape) for shape in ((3, 5), (2, 64))]


def _one_with_dsum(name: str, kernel, layer, rows: int, width: int) -> Trial:
    x, weight, dy, dsum = (
        _normal(n, *shape) for n, shape in enumerate(((rows, width), (width,), *2 * ((rows, width),)))
    )

    def results(op, place):
        _, saved = getattr(op, f"{name}_forward")(place(x), place(weight))
        gradients = getattr(op, f"{name}_backward")(place(dy), saved, place(dsum))
        return {"dx": to_host(gradients[0]), "dweight": to_host(gradients[1])}

    return Trial(
        f"{rows}-{width}, added to another gradient",
        lambda: results(kernel, lambda array: to_device(array, DEVICE)),
        lambda: results(layer, lambda array: array.astype(np.float64)),
        BACKWARD,
    )


# ----------------------------------------------------------------------------------------- largest


def _largest() -> list[Trial]:
    return [_largest_of(width) for width in (1, 3, largest.THREADS, 2 * largest.THREADS + 77)]


def _largest_of(width: int) -> Trial:
    x = _normal(width, 8, width)
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


# ------------------------------------------------------------------------------------ skinny_matmul


def _skinny_matmul() -> list[Trial]:
    problems = [  # rows of x, inputs, outputs of each matrix, stored as (O, I), with a residual
        (1, 64, (70,), True, True),
        (1, 264, (9, 3, 12), True, False),
        (3, 40, (33, 5), True, False),
        (8, 65, (129,), True, True),
        (16, 24, (31, 7, 8), True, False),
        (1, 40, (33,), False, True),
        (4, 19, (64,), False, False),
        (7, 33, (70,), False, True),
        (11, 50, (32,), False, True),
    ]
    return [_product(*problem, dtype) for dtype, problem in product(("float32", "bfloat16"), problems)]


def _product(rows, inputs, outputs, transposed, has_residual, dtype) -> Trial:
    x, shapes = _normal(0, rows, inputs, dtype=dtype), [(n, inputs) if transposed else (inputs, n) for n in outputs]
    weights = [_normal(n, *shape, dtype=dtype) for n, shape in enumerate(shapes, start=1)]
    biases = [None if n == 1 else _normal(9 + n, count) for n, count in enumerate(outputs)]
    residual = _normal(8, rows, outputs[0], dtype=dtype) if has_residual else None

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


TRIALS: dict[str, Callable[[], list[Trial]]] = {
    "adamw": _adamw_steps,
    "bias": lambda: _with_few_blocks(columns, BIAS),
    "gelu": lambda: _with_few_blocks(columns, GELU),
    "swiglu": lambda: _with_few_blocks(swiglu, SWIGLU),
    "residual_bias": lambda: _with_few_blocks(columns, RESIDUAL_BIAS),
    "embedding": _unknown_ids,
    "global_norm": _clipped_norms,
    "cross_entropy": _cross_entropies,
    "layer_norm": lambda: _with_dsum("layer_norm", layer_norm, layer_norm_layer),
    "rms_norm": lambda: _with_dsum("rms_norm", rms_norm, rms_norm_layer),
    "largest": _largest,
    "skinny_matmul": _skinny_matmul,
}
# Kernels that have no case -> the module of their launcher.
WITHOUT_A_CASE = {"largest": "minillm.kernels.largest", "skinny_matmul": "minillm.kernels.skinny_matmul"}
