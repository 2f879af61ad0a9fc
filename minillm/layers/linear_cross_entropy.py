"""The language-model head and its loss as one operation, in which (B*T, V) logits never exist
whole.

    logits = x W^T        loss = cross_entropy(logits, targets)                x (N, C), W (V, C)

For GPT-2 and 4,096 tokens the logits are 823 MB, the largest tensor of all. But each row's loss and
gradient depend on that row alone, so the rows are taken in chunks, and a chunk's logits are gone
before the next one's are computed. They would have to be recomputed in backward. Since the gradient
of a mean of losses is linear in dloss, all of it is computed here, in the same pass, for dloss 1:

    dlogits = (softmax(logits) - onehot(targets)) / count       cross_entropy.py has the derivation
    dx = dlogits W                                              from logits_nv = sum_c x_nc W_vc
    dW = dlogits^T x                                            summed over the chunks

so that backward only multiplies by dloss. dW is added to a buffer, the parameter's gradient itself,
in strips of the vocabulary, because a second array of its size would be the next largest tensor.
benchmarks/linear_cross_entropy.py measures the memory.

In bfloat16 x is rounded, and so is W for the products; logits, softmax and loss are float32,
dlogits are rounded when they are written, and dW is added up in float32.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module, device_of
from minillm.backend.matmul import empty_operand, matmul
from minillm.kernels import dispatch
from minillm.layers.cross_entropy import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from minillm.layers.layer import Layer, Parameter

# Logits that exist at a time: 44 MiB in float32, and 512 MiB on a GPU, which wants thousands of
# rows to a product.
CHUNK_LOGITS = {"cpu": 11 << 20, "cudasim": 11 << 20, "cuda": 1 << 27}
STRIP_ROWS = 4096  # rows of dW that are computed at a time, but on a GPU, whose products add to what is there


def linear_cross_entropy_forward(
    x,
    weight,
    targets,
    ignore_index=IGNORE_INDEX,
    label_smoothing=0.0,
    needs_gradient=True,
    dweight=None,
    chunk_rows=None,
    count=None,
    needs_dweight=True,
):
    """x (..., C), weight (V, C), targets (...) int  ->  mean loss in nats (0-d, float64), saved

    ignore_index and label_smoothing: see cross_entropy.py. dweight: a buffer (V, C) that the
    weight's gradient is added to; by default a new one. chunk_rows: rows of logits that exist at a
    time; by default as many as make CHUNK_LOGITS. count: what the sum of losses is divided by, a
    number or 0-d; by default the number of targets that are not ignored. With needs_gradient=False
    only the loss is computed, and saved is None; with needs_dweight=False dweight is None. Raises
    ValueError if every target is ignored.
    """
    xp = array_module(x)
    rows = x.reshape(-1, x.shape[-1])  # (N, C)
    t = targets.reshape(-1)  # (N,)
    if count is None:
        count = (t != ignore_index).sum()
    if device_of(count) == "cpu" and count == 0:  # on a device the loss is NaN then: the host does not wait to look
        raise ValueError(f"all {t.size} targets are ignore_index ({ignore_index}), there is nothing to average")
    chunk_rows = chunk_rows or max(1, CHUNK_LOGITS[device_of(weight)] // len(weight))
    strip_rows = len(weight) if device_of(weight) == "cuda" else STRIP_ROWS
    if needs_gradient:
        dx = xp.empty_like(rows)
        if needs_dweight and dweight is None:
            dweight = xp.zeros_like(weight)
        rounded = empty_operand(min(chunk_rows, len(rows)), len(weight), like=x)  # None where nothing is to be rounded
    loss = 0.0
    for start in range(0, len(rows), chunk_rows):
        chunk = slice(start, start + chunk_rows)
        logits = matmul(rows[chunk], weight.T, dtype=weight.dtype)  # (n, C) @ (C, V), in float32 for softmax and loss
        forward, _ = dispatch(logits, cross_entropy_forward, cross_entropy_backward)
        gradient = rounded[: len(logits)] if needs_gradient and rounded is not None else None
        chunk_loss, dlogits = forward(logits, t[chunk], ignore_index, label_smoothing, count, gradient)
        loss = loss + chunk_loss
        if needs_gradient:
            # forward: logits = matmul(rows[chunk], weight.T, dtype=weight.dtype)
            matmul(dlogits, weight, out=dx[chunk])  # (n, V) @ (V, C)
            for first in range(0, len(weight) if needs_dweight else 0, strip_rows):
                strip = slice(first, first + strip_rows)
                matmul(dlogits[:, strip].T, rows[chunk], out=dweight[strip], add=True)  # (v, n) @ (n, C)
        del logits, dlogits  # before the next chunk's are made
    return loss, (dx.reshape(x.shape), dweight) if needs_gradient else None


def linear_cross_entropy_backward(dloss, saved):
    """dloss (0-d)  ->  dx (..., C), dweight (V, C)"""
    # forward: loss = loss + chunk_loss: both were computed there for dloss = 1, and the gradient is
    # linear in dloss
    dx, dweight = saved
    if dloss != 1:
        dx = dx * dloss
        dweight = None if dweight is None else dweight * dloss
    return dx, dweight


class LinearCrossEntropy(Layer):
    """Mean cross-entropy of the logits x @ weight.T, x (..., C) and targets (...) -> 0-d.

    The weight is a Parameter that it shares: the token embedding's (tied) or that of the output
    head. In evaluation mode the loss is measured without label smoothing, so that it is the text's
    true cross-entropy.
    """

    def __init__(self, weight: Parameter, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0):
        """weight (V, C); ignore_index and label_smoothing: see cross_entropy.py."""
        self.weight = weight
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, x, targets, count=None):
        """x (..., C), targets (...) int  ->  the mean loss in nats (0-d, float64).

        count: what the sum of losses is divided by, by default the number of targets that are not
        ignored. Raises ValueError if every target is ignored.
        """
        loss, saved = linear_cross_entropy_forward(
            x,
            self.weight.value,
            targets,
            self.ignore_index,
            self.label_smoothing if self.training else 0.0,
            needs_gradient=self.training,
            dweight=self.weight.grad_buffer() if self.training and not self.weight.frozen else None,
            count=count,
            needs_dweight=not self.weight.frozen,
        )
        self.save_for_backward(saved)
        return loss

    def backward(self, dloss=1.0):
        """dloss (0-d)  ->  dx (..., C); adds to the weight's gradient.

        Raises RuntimeError without a forward before it.
        """
        # forward: loss, saved = linear_cross_entropy_forward(x, self.weight.value, targets, ...)
        dx, dweight = linear_cross_entropy_backward(dloss, self.take_saved())
        if dweight is not None:
            self.weight.add_grad(dweight)
        return dx
