"""ZeRO by hand, for the lesson on many hands: ranks train one model and share out what they keep.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"
(2020). The model is a chain of L blocks, y = x + gelu(x W) V, each with P / L weights. AdamW keeps
two numbers for each weight, m and v. In float32 a rank of N keeps, in bytes,

    stage                      weights          gradients        m and v
    0  nothing is shared       4 P              4 P              8 P
    1  m and v                 4 P              4 P              8 P / N
    2  gradients as well       4 P              4 P/N + 4 P/L    8 P / N
    3  weights as well         4 P/N + 4 P/L    4 P/N + 4 P/L    8 P / N

P / L is the one block that a rank has whole while it computes with it. A rank updates the weights
that it owns, and needs m, v and the gradient of no others: that is why it need not keep them.

What is sent does not change, or little. Data parallelism sums all gradients, which is a
reduce_scatter and an all_gather. From stage 1 on each rank updates its own weights between the two:
gathered are the new weights in place of the gradients. Stage 3 gathers each block twice, before its
forward and before its backward.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.distributed.communicator import Communicator, Terms
from minillm.distributed.layout import Layout
from minillm.distributed.tree import add_up, nodes_of, parts_of
from minillm.layers.gelu import gelu_backward, gelu_forward
from minillm.layers.layer import Parameter
from minillm.layers.linear import LinearSaved, linear_backward, linear_forward
from minillm.optim import AdamW

STAGES = (0, 1, 2, 3)
BLOCKS, WIDTH, INNER = 8, 64, 128  # L; W is (WIDTH, INNER), V (INNER, WIDTH)
PARTS = 4  # of a batch: the sum over them goes along the tree, so ranks may be 1 to PARTS
ROWS, STEPS, SEED = 8, 5, 1  # rows of a part
MOMENT = -1  # in the place of a block's number: its whole array, there while it is computed with
LAYOUT = Layout(
    {
        f"{block}.{name}": shape
        for block in range(BLOCKS)
        for name, shape in (("W", (WIDTH, INNER)), ("V", (INNER, WIDTH)))
    },
    sections=[[f"{block}.W", f"{block}.V"] for block in range(BLOCKS)],
)


class Trained(NamedTuple):
    """What a rank has at the end: the weights as bytes, the most bytes of each kind that it kept at
    a time, and the bytes that it sent in one step.
    """

    weights: bytes
    kept: dict[str, int]
    sent: float


def bytes_kept(stage: int, parameters: int, block: int, ranks: int) -> dict[str, float]:
    """The formula: bytes that a rank keeps. parameters: P; block: those of the largest block."""
    part = 4 * parameters / ranks + 4 * block
    return {
        "weights": part if stage >= 3 else 4 * parameters,
        "gradients": part if stage >= 2 else 4 * parameters,
        "m and v": 8 * parameters / (ranks if stage >= 1 else 1),
    }


def bytes_sent(stage: int, parameters: int, ranks: int) -> float:
    """The formula: bytes that a rank sends in a step."""
    return (3 if stage == 3 else 2) * 4 * parameters * (ranks - 1) / ranks


def train(communicator: Communicator, stage: int) -> Trained:
    """STEPS steps of this rank."""
    rank = Rank(communicator, stage)
    for step in range(STEPS):
        rank.step(step)
    sent = sum(communicator.sent.values()) / STEPS
    weights = b"".join(rank.whole(block).tobytes() for block in range(BLOCKS))
    return Trained(weights, dict(rank.most), sent)


class Rank:
    """A rank: of each block it keeps all, or its own slice, of the weights and of the gradients."""

    def __init__(self, communicator: Communicator, stage: int):
        self.communicator, self.stage = communicator, stage
        self.parts = parts_of(communicator.rank, communicator.size, PARTS)
        self.nodes = [nodes_of(parts_of(r, communicator.size, PARTS), PARTS) for r in range(communicator.size)]
        self.bounds = [np.subtract(LAYOUT.bounds(s, communicator.size), s.start).tolist() for s in LAYOUT.sections]
        self.own = [slice(*bounds[communicator.rank : communicator.rank + 2]) for bounds in self.bounds]
        self.held: dict[tuple[str, int], np.ndarray] = {}
        self.most: Counter[str] = Counter()
        for block in range(BLOCKS):
            start = initial_weights(block)
            self.hold("weights", block, start[self.own[block]].copy() if stage >= 3 else start)
            self.hold("gradients", block, np.zeros_like(start[self.own[block]] if stage >= 2 else start))
        parameters = {str(block): Parameter(self.updated("weights", block)) for block in range(BLOCKS)}
        self.optimizer = AdamW(parameters, lr=1e-2, weight_decay=0.0)
        state = [array for arrays in self.optimizer.state.values() for array in arrays.values()]
        self.most["m and v"] = sum(array.nbytes for array in state)

    def step(self, step: int) -> None:
        """Forward, backward, AdamW."""
        inputs, targets = batch(step)
        x, saved = {part: inputs[part] for part in self.parts}, {}
        for block in range(BLOCKS):
            w = self.whole(block)
            for part in self.parts:
                x[part], saved[part, block] = forward(x[part], *matrices(w))
            self.forget("weights")
        # forward: loss = 1/2 sum (x - targets)^2 / rows of the batch
        dx = {part: (x[part] - targets[part]) / np.float32(PARTS * ROWS) for part in self.parts}
        for block in reversed(range(BLOCKS)):
            w, total, terms = self.whole(block), self.gradient_buffer(block), {}
            for part in self.parts:
                terms[part, part + 1] = flat = np.zeros_like(total) if terms else total
                dx[part] = backward(dx[part], saved[part, block], *matrices(w), *matrices(flat))
            self.forget("weights")
            self.reduce(block, add_up(terms, *self.nodes[self.communicator.rank]))
            self.forget("gradients")
        for block, parameter in self.optimizer.parameters.items():
            parameter.grad = self.updated("gradients", int(block))
        self.optimizer.step()
        if self.stage in (1, 2):
            for block in range(BLOCKS):
                self.communicator.all_gather(self.held["weights", block], self.bounds[block])

    def whole(self, block: int) -> np.ndarray:
        """All weights of a block; in stage 3 they are gathered from their owners."""
        if self.stage < 3:
            return self.held["weights", block]
        w = self.hold("weights", MOMENT, np.empty(self.bounds[block][-1], np.float32))
        w[self.own[block]] = self.held["weights", block]
        self.communicator.all_gather(w, self.bounds[block])
        return w

    def gradient_buffer(self, block: int) -> np.ndarray:
        """Zeros for all gradients of a block; from stage 2 on only for a moment."""
        if self.stage >= 2:
            return self.hold("gradients", MOMENT, np.zeros(self.bounds[block][-1], np.float32))
        self.held["gradients", block].fill(0)
        return self.held["gradients", block]

    def reduce(self, block: int, gradient: np.ndarray) -> None:
        """The sum over the ranks goes to the owner of each slice; in stage 0 all of it to all."""
        own = self.communicator.reduce_scatter(Terms(PARTS, self.nodes, [gradient]), self.bounds[block])
        if self.stage >= 2:
            self.held["gradients", block][...] = own
        if self.stage == 0:
            self.communicator.all_gather(gradient, self.bounds[block])

    def updated(self, kind: str, block: int) -> np.ndarray:
        """What this rank updates of a block: all in stage 0, else its own slice."""
        array = self.held[kind, block]
        is_slice = self.stage >= {"weights": 3, "gradients": 2}[kind]
        return array if is_slice or self.stage == 0 else array[self.own[block]]

    def hold(self, kind: str, block: int, array: np.ndarray) -> np.ndarray:
        """Keep an array, and count what is kept of its kind."""
        self.held[kind, block] = array
        self.most[kind] = max(self.most[kind], sum(a.nbytes for (k, _), a in self.held.items() if k == kind))
        return array

    def forget(self, kind: str) -> None:
        """Free what was there for a moment."""
        self.held.pop((kind, MOMENT), None)


# --------------------------------------------------------------------------------------------- the model and its data


def forward(x, w, v):
    """x (n, WIDTH)  ->  y = x + gelu(x w) v, of its shape, and what backward needs but for w and v.

    Gathered weights are freed after forward, so they must not be among what is saved.
    """
    h, _ = linear_forward(x, w)
    g, of_gelu = gelu_forward(h)
    y, _ = linear_forward(g, v)
    return x + y, (x, of_gelu, g)


def backward(dy, saved, w, v, dw, dv):
    """dy (n, WIDTH)  ->  dx; the gradients of w and v are added to dw and dv."""
    x, of_gelu, g = saved
    # forward: y, _ = linear_forward(g, v)
    dg, _, _ = linear_backward(dy, LinearSaved(g, v, has_bias=False, transposed=False), dweight=dv)
    # forward: g, of_gelu = gelu_forward(h)
    dh, _ = gelu_backward(dg, of_gelu)
    # forward: h, _ = linear_forward(x, w)
    dx, _, _ = linear_backward(dh, LinearSaved(x, w, has_bias=False, transposed=False), dweight=dw)
    # forward: x + y: the gradient goes both ways
    return dx + dy


def matrices(flat) -> tuple[np.ndarray, np.ndarray]:
    """The two matrices of a block as views of its flat array."""
    return flat[: WIDTH * INNER].reshape(WIDTH, INNER), flat[WIDTH * INNER :].reshape(INNER, WIDTH)


def initial_weights(block: int) -> np.ndarray:
    """The flat array of a block, the same on every rank."""
    return (0.05 * stream(SEED, "weights", block).normal(2 * WIDTH * INNER)).astype(np.float32)


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (PARTS, ROWS, WIDTH) each."""
    x, targets = stream(SEED, "batch", step).normal((2, PARTS, ROWS, WIDTH)).astype(np.float32)
    return x, targets
