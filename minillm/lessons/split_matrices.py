"""Tensor parallelism by hand, for the lesson on many hands: two matrices, each on N ranks.

Source: Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism" (2019). The feed-forward layer of a transformer is y = gelu(x A) B + b. Rank r has a
share of the columns of A and the same share of the rows of B:

    alone                      on rank r
    h = x A                    h_r = x A_r                    some columns of h
    g = gelu(h)                g_r = gelu(h_r)                each column by itself
    y = g B + b                y = sum_r g_r B_r + b          a sum over the ranks; b added once, after it

    dg = dy B^T                dg_r = dy B_r^T                some columns of dg
    dB = g^T dy                dB_r = g_r^T dy                some rows of dB
    db = sum of the rows of dy                                on each rank the same
    dh = dg gelu'(h)           dh_r = dg_r gelu'(h_r)         each column by itself
    dA = x^T dh                dA_r = x^T dh_r                some columns of dA
    dx = dh A^T                dx = sum_r dh_r A_r^T          a sum over the ranks

Columns first, then rows: so h and g, the large ones, are never exchanged. The two sums are
conjugates. Forward, x goes to all ranks as it is; backward, its gradient is therefore the sum of
what comes back from them. Forward, y is a sum over the ranks; backward, dy goes to all of them as
it is. A rank that leaves out the sum in backward has its own share of dx alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.checks.gradcheck import GradientError, gradcheck
from minillm.distributed.communicator import Communicator, equal_bounds
from minillm.distributed.rank_threads import run_ranks
from minillm.layers.gelu import gelu_backward, gelu_forward
from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear import linear_backward, linear_forward

ROWS, WIDTH, INNER = 3, 4, 8  # of x; A is (WIDTH, INNER), B (INNER, WIDTH)
SEED = 1
WAYS = ("as derived", "no sum in backward", "bias added on each rank")


def split_forward(x, A, B, b, communicator: Communicator, way: str = WAYS[0]):
    """x (n, C), this rank's A (C, F / N) and B (F / N, C), b (C,)  ->  y (n, C), saved"""
    h, of_A = linear_forward(x, A)
    g, of_gelu = gelu_forward(h)
    y, of_B = linear_forward(g, B)
    if way == "bias added on each rank":
        y += b
    communicator.sum(y)
    if way != "bias added on each rank":
        y += b
    return y, (of_A, of_gelu, of_B)


def split_backward(dy, saved, communicator: Communicator, way: str = WAYS[0]):
    """dy (n, C)  ->  dx (n, C), this rank's dA and dB, db (C,)"""
    of_A, of_gelu, of_B = saved
    # forward: y += b: the same bias for every row
    db = dy.sum(axis=0)
    # forward: communicator.sum(y): every rank's share of y has the gradient of y
    # forward: y, of_B = linear_forward(g, B)
    dg, dB, _ = linear_backward(dy, of_B)
    # forward: g, of_gelu = gelu_forward(h)
    dh, _ = gelu_backward(dg, of_gelu)
    # forward: h, of_A = linear_forward(x, A)
    dx, dA, _ = linear_backward(dh, of_A)
    if way != "no sum in backward":
        # forward: every rank has the same x
        communicator.sum(dx)
    return dx, dA, dB, db


class SplitMLP(Layer):
    """The layer, on `ranks` ranks: its parameters are whole, so that it can be checked like any
    other.

    sent: the bytes that a rank has sent in the last pass.
    """

    def __init__(self, ranks: int, way: str = WAYS[0]):
        numbers = stream(SEED, "matrices")
        self.A = Parameter(numbers.normal((WIDTH, INNER)) / WIDTH**0.5)
        self.B = Parameter(numbers.normal((INNER, WIDTH)) / INNER**0.5)
        self.b = Parameter(numbers.normal(WIDTH))
        self.ranks, self.way, self.sent = ranks, way, 0
        self.bounds = equal_bounds(INNER, ranks)

    def forward(self, x):
        """x (n, C)  ->  y (n, C)"""

        def program(communicator):
            own = slice(*self.bounds[communicator.rank : communicator.rank + 2])
            A, B = self.A.value[:, own], self.B.value[own]
            return *split_forward(x, A, B, self.b.value, communicator, self.way), communicator.sent["sum"]

        y, saved, sent = zip(*run_ranks(self.ranks, program))
        self.save_for_backward(saved)
        self.sent = sent[0]
        return y[0]

    def backward(self, dy):
        """dy (n, C)  ->  dx (n, C), as rank 0 has it; adds to the gradients of A, B and b."""
        saved = self.take_saved()

        def program(communicator):
            return *split_backward(dy, saved[communicator.rank], communicator, self.way), communicator.sent["sum"]

        dx, dA, dB, db, sent = zip(*run_ranks(self.ranks, program))
        self.A.add_grad(np.concatenate(dA, axis=1))
        self.B.add_grad(np.concatenate(dB, axis=0))
        self.b.add_grad(db[0])
        self.sent = sent[0]
        return dx[0]


class Compared(NamedTuple):
    """A way of splitting, against the layer on one rank and against finite differences.

    output: the largest difference of y from that of one rank, relative to its largest number.
    gradients: the same for the gradient of each tensor. checked: the largest relative error of each
    against finite differences. verdict: of gradcheck. sent: bytes in forward and in backward.
    """

    output: float
    gradients: dict[str, float]
    checked: dict[str, float]
    verdict: str
    sent: tuple[int, int]


def compare(ranks: int, way: str = WAYS[0]) -> Compared:
    """The layer on `ranks` ranks, against the layer on one."""
    x, dy = stream(SEED, "input").normal((2, ROWS, WIDTH))
    (y, expected, _), (split_y, found, sent) = (_passes(SplitMLP(n, w), x, dy) for n, w in ((1, WAYS[0]), (ranks, way)))
    try:
        report = gradcheck(SplitMLP(ranks, way), x, input_names=["x"], progress=False)
    except GradientError as error:
        report = error.report
    return Compared(
        _apart(split_y, y),
        {name: _apart(found[name], expected[name]) for name in expected},
        {row.tensor: float(row.error) for row in report.rows},
        report.verdict,
        sent,
    )


def _passes(layer: SplitMLP, x, dy):
    """y, the gradients by name, and the bytes sent in forward and backward."""
    y = layer.forward(x)
    forward_sent = layer.sent
    dx = layer.backward(dy)
    gradients = {"x": dx} | {name: parameter.grad for name, parameter in layer.parameters().items()}
    return y, gradients, (forward_sent, layer.sent)


def _apart(found, expected) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
