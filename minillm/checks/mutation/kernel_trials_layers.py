"""Trials of layers: arguments that another layer passes, and what NumPy's functions refuse."""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import to_device, to_host
from minillm.checks.agreement import kernel_results, reference_results
from minillm.checks.case import BACKWARD, FORWARD, Case, Problem, at
from minillm.checks.mutation.kernel_trial import DEVICE, Trial, normal
from minillm.kernels import cross_entropy
from minillm.kernels import embedding as embedding_kernel


def with_few_blocks(case: Case, module, name: str = "MAX_BLOCKS") -> list[Trial]:
    """The limit of blocks, module.name, is 1: each thread takes several turns."""
    return [_one_with_few_blocks(case, at(41, width), module, name) for width in (5, 40)]


def _one_with_few_blocks(case: Case, problem: Problem, module, name: str) -> Trial:
    def run():
        limit = getattr(module, name)
        setattr(module, name, 1)
        try:
            forward, backward = kernel_results(case, case.kernel[0], problem)
        finally:
            setattr(module, name, limit)
        return forward | backward

    def expected():
        forward, backward = reference_results(case, problem)
        return forward | backward

    return Trial(f"{problem}, one block", run, expected, lambda name: BACKWARD if name.startswith("d") else FORWARD)


def unknown_ids() -> list[Trial]:
    """Ids outside of the vocabulary: NaN forward, and no gradient. And runs of ids that begin and
    end at and beside the borders of windows of 32.
    """
    lists = [(2, -1, 0, 3, 4, -7, 2), (-1,) * 40 + (0, 1, 1) + (3,) * 70]
    lengths = [(1, 60), (2, 60), (32, 40, 5), (31, 40), (5, 59, 10), (32, 1, 40), (64, 1, 1)]
    lists += [tuple(token for token, times in enumerate(each) for _ in range(times)) for each in lengths]
    return [_with_ids(ids) for ids in lists]


def _with_ids(ids: tuple[int, ...]) -> Trial:
    weight, dy = normal(0, 3, 5), normal(1, len(ids), 5)

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

    return Trial(f"{len(ids)} ids, {ids.count(0)} times 0", run, expected)


def cross_entropies() -> list[Trial]:
    """Targets outside of the vocabulary, logits of -inf at every place, rows before these, more
    rows than threads.
    """
    return [
        _cross_entropy(9, 67, (-1, 3, 67, -100, 66, 0, 1, 2, 99), 0.2),
        _cross_entropy(6, 3, (-1, 3, 2, 0, 1, -100), 0.0),
        _cross_entropy(5, 67, (66, 30, 40, 50, 60), 0.0, masked=True),
        _cross_entropy(7, 41, (40, 30, 0, 7, -100, 20, 30), 0.1, before=2.5),
        _cross_entropy(3, 1000, (5, 600, 999), 0.0, peak=400),
        _cross_entropy(600, 3, tuple(n % 4 - 100 * (n % 4 == 3) - 3 * (n % 4 == 3) for n in range(600)), 0.0),
    ]


def _cross_entropy(rows, vocabulary, targets, smoothing, masked=False, before=0.0, peak=None) -> Trial:
    """peak: where the first row has a logit beside which the others vanish."""
    logits, targets = 3 * normal(rows, rows, vocabulary), np.array(targets)
    if masked:
        logits[:, : vocabulary // 3] = -np.inf
    if peak is not None:
        logits[0, peak] = 200

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


def with_dsum(name: str, kernel, layer) -> list[Trial]:
    """Another gradient of x is added to dx, as in a residual block."""
    return [_one_with_dsum(name, kernel, layer, *shape) for shape in ((3, 5), (2, 64))]


def _one_with_dsum(name: str, kernel, layer, rows: int, width: int) -> Trial:
    x, weight, dy, dsum = (
        normal(n, *shape) for n, shape in enumerate(((rows, width), (width,), *2 * ((rows, width),)))
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
