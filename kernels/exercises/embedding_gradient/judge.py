"""The embedding's gradient: the row of a token is the sum of dy over its occurrences."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch

BLOCK = 128  # threads


def inputs(rng, tokens, width, vocabulary):
    """Tokens by Zipf's law, as in text: a few are frequent, and many do not occur."""
    share = 1 / np.arange(1, vocabulary + 1)
    ids = rng.permutation(vocabulary)[rng.choice(vocabulary, tokens, p=share / share.sum())].astype(np.int32)
    order = np.argsort(ids, kind="stable").astype(np.int32)
    return {
        "dy": rng.normal(size=(tokens, width)).astype(np.float32),
        "ids": ids[order],
        "order": order,
        "dtable": np.zeros((vocabulary, width), np.float32),
        "tokens": np.int32(tokens),
        "width": np.int32(width),
    }


def expected(a):
    total = np.zeros(a.dtable.shape)
    np.add.at(total, a.ids, a.dy[a.order])
    return {"dtable": total}


def launches(a):
    return [
        Launch("embedding_gradient", (int(a.tokens),), (BLOCK,), ("dy", "ids", "order", "dtable", "tokens", "width"))
    ]


def sizes(rng):
    return [
        {"tokens": 1, "width": 128, "vocabulary": 3},
        {"tokens": 24, "width": int(rng.integers(1, 100)), "vocabulary": 7},
        {"tokens": int(rng.integers(30, 60)), "width": 200, "vocabulary": 20},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"tokens": 96, "width": 160, "vocabulary": 40},
    best=Counts(sectors=4144, wavefronts=0, operations=2254),
    same_bits=True,
)
