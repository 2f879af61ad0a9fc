"""Cross-entropy of each row of logits, and its gradient, written over the logits."""

import numpy as np

from minillm.kernels.exercises.task import Counts, KernelTask, Launch, blank

BLOCK = 128  # threads


def inputs(rng, rows, width, below=0):
    """The logits lie around 0, or as far below it as it is given."""
    return {
        "logits": rng.normal(-below, 5, (rows, width)).astype(np.float32),
        "targets": rng.integers(0, width, rows).astype(np.int32),
        "losses": blank(rows),
        "width": np.int32(width),
    }


def expected(a):
    rows, most = np.arange(len(a.logits)), a.logits.max(axis=1)
    lse = most + np.log(np.exp(a.logits - most[:, None]).sum(axis=1))
    gradient = np.exp(a.logits - lse[:, None])
    gradient[rows, a.targets] -= 1
    return {"logits": gradient, "losses": lse - a.logits[rows, a.targets]}


def launches(a):
    arguments = ("logits", "targets", "losses", "width")
    return [Launch("mend_cross_entropy", (len(a.losses),), (BLOCK,), arguments)]


def sizes(rng):
    return [
        {"rows": 4, "width": 500},
        {"rows": 3, "width": int(rng.integers(2, 128))},
        {"rows": 2, "width": 300, "below": 300},
    ]


TASK = KernelTask(
    inputs,
    expected,
    launches,
    sizes,
    measured={"rows": 10, "width": 1003},
    best=Counts(sectors=6100, wavefronts=400, operations=1740),
)
