"""How probable a text is: the sum of the log-probabilities of its tokens, for each row of a batch.

    logits = x W^T                                                   x (B, T, C), W (V, C)
    logp_b = sum_t log softmax(logits_bt)[target_bt]                 over the targets that count

Preferences are learned from it (dpo.py). It is minus the sum of a row's cross-entropies,

    loss_bt = -log softmax(logits_bt)[target_bt]        logp_b = -sum_t loss_bt

so cross_entropy.py has its forward, its gradient and its CUDA kernel: the rows of the batch are
taken one after the other. Backward, with the coefficient dlogp_b of row b:

    dlogits_bt = dlogp_b (onehot(target_bt) - softmax(logits_bt))
    dx = dlogits W                                     from logits_btv = sum_c x_btc W_vc
    dW = dlogits^T x                                   summed over all rows

A sum of cross-entropies that is divided by count has the gradient (softmax - onehot) / count, which
is dlogits for count = -1 / dlogp_b.

(B*T, V) logits never exist whole: a chunk's are gone before the next one's are computed. Unlike in
linear_cross_entropy.py the gradient cannot be computed in the same pass: dlogp_b depends on the
log-probability of the whole row, and in dpo.py on that of a second row. dx for dlogp_b = 1 could be
kept and multiplied later, but dW adds up rows of different coefficients. So backward computes the
logits again: of the products with W, four in place of three.

Targets that do not count cost nothing at the two ends of a row: the prompt before the answer, and
the padding behind it.

In bfloat16 x is rounded, and so is W for the products; softmax and log-probabilities are float32,
their sum is float64, dlogits are rounded when they are written, and dW is added up in float32. On a
device logits are rounded as well, and W may have rows of zeros beyond V: see
linear_cross_entropy.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minillm.backend.arrays import array_module, device_of, to_device
from minillm.backend.matmul import matmul
from minillm.backend.precision import gradient_dtype
from minillm.kernels import dispatch
from minillm.layers.cross_entropy import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from minillm.layers.layer import Layer, Parameter
from minillm.layers.linear_cross_entropy import STRIP_ROWS, RoomForLogits, rows_of_chunk


class SequenceLogProbabilitySaved(NamedTuple):
    """What backward needs of forward."""

    x: Any  # (B, T, C)
    weight: Any  # (V, C), or with more rows, which are zero
    targets: Any  # (B, T)
    ignore_index: int
    chunks: list[tuple[int, slice]]  # those of forward
    vocabulary: int  # V


def sequence_log_probability_forward(
    x, weight, targets, ignore_index=IGNORE_INDEX, spans=None, chunk_rows=None, vocabulary=None
):
    """x (B, T, C), weight (V, C), targets (B, T) int  ->  logp (B,) in nats, float64; saved

    weight: None where x are the logits themselves. ignore_index: a target that does not
    count; a row without any other has logp 0. spans: of each row (first, end), outside of which no
    target counts, as `counted_spans` gives; by default those of targets in host memory, and whole
    rows of others. chunk_rows: rows of logits that exist at a time; by default as many as
    `rows_of_chunk` of linear_cross_entropy.py says. vocabulary: V, where the weight has more rows
    than that, which are zero.
    """
    if spans is None and device_of(targets) == "cpu":
        spans = counted_spans(targets, ignore_index)
    if vocabulary is None:
        vocabulary = x.shape[-1] if weight is None else len(weight)
    chunk_rows = chunk_rows or rows_of_chunk(x.shape[1], vocabulary, device_of(x), x.itemsize)
    chunks = list(_chunks(spans or [(0, x.shape[1])] * len(x), chunk_rows))
    xp = array_module(x)
    logp = to_device(xp.zeros(len(x), xp.result_type(x.dtype, "float64")), device_of(x))  # (B,)
    room = None if weight is None else RoomForLogits(_longest(chunks), x, weight)
    for b, part in chunks:
        logits = _logits(x[b, part], weight, room)
        forward, _ = dispatch(logits, cross_entropy_forward, cross_entropy_backward)
        loss, _ = forward(logits[:, :vocabulary], targets[b, part], ignore_index, count=1)  # a sum
        logp[b : b + 1] -= loss
        del logits  # before the next chunk's are made
    return logp, SequenceLogProbabilitySaved(x, weight, targets, ignore_index, chunks, vocabulary)


def sequence_log_probability_backward(dlogp, saved, dweight=None, needs_dweight=True):
    """dlogp (B,)  ->  dx (B, T, C), dweight (V, C)

    dweight: a buffer, as weight, that its gradient is added to; by default a new one. With
    needs_dweight=False, or without a weight, it is None.
    """
    x, weight, targets, ignore_index, chunks, vocabulary = saved
    xp = array_module(x)
    # forward: logits = _logits(x[b, part], weight, room): room for its gradients; what is in no
    # chunk has none
    dx = xp.zeros_like(x)
    if weight is not None:
        if needs_dweight and dweight is None:
            dweight = xp.zeros_like(weight, dtype=gradient_dtype(weight))
        strip_rows = len(weight) if device_of(weight) == "cuda" else STRIP_ROWS
    room = None if weight is None else RoomForLogits(_longest(chunks), x, weight)
    # forward: logp[b : b + 1] -= loss
    with np.errstate(divide="ignore"):  # a row with dlogp 0: 1 / count is 0 then
        count = -1 / dlogp  # (B,)
    for b, part in chunks:
        logits = _logits(x[b, part], weight, room)  # once more
        forward, _ = dispatch(logits, cross_entropy_forward, cross_entropy_backward)
        # forward: loss, _ = forward(logits[:, :vocabulary], targets[b, part], ...)
        _, dlogits = forward(logits[:, :vocabulary], targets[b, part], ignore_index, count=count[b])
        if weight is None:
            # forward: logits = _logits(x[b, part], weight, room)
            # forward: return x.copy()
            dx[b, part] = dlogits
            continue
        # forward: logits = _logits(x[b, part], weight, room): dlogits have been written over them
        dlogits = room.rounded(logits)
        # forward: logits = _logits(x[b, part], weight, room)
        # forward: return matmul(x, weight.T, room.part(len(x)), gradient_dtype(weight))
        matmul(dlogits, weight, out=dx[b, part])  # (n, V) @ (V, C)
        for first in range(0, len(weight) if needs_dweight else 0, strip_rows):
            strip = slice(first, first + strip_rows)
            matmul(dlogits[:, strip].T, x[b, part], out=dweight[strip], add=True)  # (v, n) @ (n, C)
        del logits, dlogits
    return dx, dweight


def _logits(x, weight, room):
    """x (n, C), weight (V, C)  ->  logits (n, V), which may be written over"""
    if weight is None:
        return x.copy()
    return matmul(x, weight.T, room.part(len(x)), gradient_dtype(weight))  # (n, C) @ (C, V)


def _longest(chunks) -> int:
    return max((part.stop - part.start for _, part in chunks), default=0)


def counted_spans(targets, ignore_index=IGNORE_INDEX) -> list[tuple[int, int]]:
    """targets (B, T) in host memory  ->  of each row (first, end), outside of which no target
    counts.

    >>> counted_spans(np.array([[-100, -100, 7, -100, 8, -100], [-100] * 6]))
    [(2, 5), (0, 0)]
    """
    spans = []
    for row in np.asarray(targets) != ignore_index:
        counted = np.flatnonzero(row)
        spans.append((int(counted[0]), int(counted[-1]) + 1) if len(counted) else (0, 0))
    return spans


def _chunks(spans: list[tuple[int, int]], chunk_rows: int) -> Iterator[tuple[int, slice]]:
    """(row of the batch, at most chunk_rows of its tokens), for all tokens in the spans."""
    for b, (first, end) in enumerate(spans):
        for start in range(first, end, chunk_rows):
            yield b, slice(start, min(start + chunk_rows, end))


class SequenceLogProbability(Layer):
    """The log-probability of each row's counted targets, of the logits x @ weight.T: x (B, T, C)
    and targets (B, T) -> (B,).

    The weight is a Parameter that it shares: the token embedding's (tied) or that of the output
    head; None where x are logits.
    """

    def __init__(self, weight: Parameter | None, ignore_index: int = IGNORE_INDEX):
        """weight (V, C); ignore_index: a target that does not count."""
        self.weight = weight
        self.ignore_index = ignore_index

    def forward(self, x, targets, spans=None):
        """x (B, T, C), targets (B, T) int  ->  logp (B,) in nats, float64.

        spans: see `sequence_log_probability_forward`.
        """
        weight = vocabulary = None
        if self.weight is not None:
            weight, vocabulary = self.weight.operand(x, padded=True), len(self.weight.peek())
        logp, saved = sequence_log_probability_forward(
            x, weight, targets, self.ignore_index, spans, vocabulary=vocabulary
        )
        self.save_for_backward(saved)
        return logp

    def backward(self, dlogp):
        """dlogp (B,)  ->  dx (B, T, C); adds to the weight's gradient.

        Raises RuntimeError without a forward before it.
        """
        saved = self.take_saved()
        # forward: logp, saved = sequence_log_probability_forward(x, weight, targets, ...)
        learns = self.weight is not None and not self.weight.frozen
        buffer = self.weight.grad_buffer(len(saved.weight)) if learns else None
        dx, dweight = sequence_log_probability_backward(dlogp, saved, buffer, needs_dweight=learns)
        if learns:
            self.weight.add_grad(dweight[: len(self.weight.peek())])
        return dx
