"""Cross-entropy: how many nats the model pays, on average, for the token that really came next.

For one row of logits z with the target t, from Bishop, "Pattern Recognition and Machine Learning"
(2006), 4.3.4:

    p = softmax(z)        loss = -log p_t = log sum_j exp(z_j) - z_t = lse(z) - z_t

and the mean over the N rows that count (rows whose target is `ignore_index` do not). With label
smoothing e (Szegedy et al. 2016) the target is the distribution q = (1 - e) onehot(t) + e/V in
place of onehot(t):

    loss = -sum_j q_j log p_j = lse(z) - (1 - e) z_t - e/V sum_j z_j

Backward, fused. d lse/dz_j = p_j, and the rest is linear in z:

    dL/dz_j = (p_j - q_j) / N

Softmax and logarithm cancel: the gradient needs no division by a small probability, never
overflows, and can be written over the logits. That is why forward here already leaves the gradient
(for dloss = 1) in the place of the logits.

Perplexity is exp(loss): a model that is unsure between k equally likely tokens has a perplexity of
k.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module, device_of
from minillm.backend.precision import upcast
from minillm.kernels import dispatch
from minillm.layers.layer import Layer
from minillm.layers.softmax import row_max, row_sum

IGNORE_INDEX = -100


def cross_entropy_forward(logits, targets, ignore_index=IGNORE_INDEX, label_smoothing=0.0, count=None, before=0.0):
    """Mean negative log-likelihood in nats. **The logits are overwritten with their gradient.**

    logits (..., V), targets (...) int  ->  loss (0-d, float64), saved

    ignore_index: a target that does not count. label_smoothing: e, from 0 to below 1. count: what
    the sum is divided by, by default the number of rows that are not ignored. before: the loss of
    the rows before these, which is added. Logits in bfloat16 are read as float32, and their
    gradient is rounded.

    Raises ValueError if every target is ignored: the mean of nothing has no value.
    """
    xp = array_module(logits)
    vocabulary = logits.shape[-1]
    given = logits.reshape(-1, vocabulary)  # (N, V), a view: logits is contiguous, or rows of a wider array
    z = upcast(given)
    t = targets.reshape(-1)  # (N,)
    counted = t != ignore_index
    if count is None:
        count = counted.sum()
    if device_of(count) == "cpu" and count == 0:
        raise ValueError(f"cross_entropy: all {t.size} targets are ignore_index ({ignore_index}), nothing to average")
    rows, t = xp.arange(len(t)), xp.where(counted, t, 0)

    z -= row_max(z)  # loss and gradient do not change with a constant shift
    at_target = z[rows, t]  # (N,)
    at_average = z.mean(axis=-1) if label_smoothing else 0.0
    p = xp.exp(z, out=z)
    total = row_sum(p)[:, 0]  # (N,), at least 1
    losses = xp.log(total) - (1 - label_smoothing) * at_target - label_smoothing * at_average
    exact = xp.result_type(losses.dtype, "float64")
    loss = before + xp.where(counted, losses, 0).sum(dtype=exact) / count

    # forward: loss = before + xp.where(counted, losses, 0).sum(dtype=exact) / count: in all,
    # the loss is 1/count sum (lse(z) - sum_j q_j z_j)
    scale = (counted / count).astype(z.dtype)  # (N,), 0 for ignored rows
    # forward: p = xp.exp(z, out=z); total = row_sum(p)[:, 0]; xp.log(total): the gradient of lse
    p *= (scale / total)[:, None]  # softmax / count
    # forward: at_target = z[rows, t]; (1 - label_smoothing) * at_target
    p[rows, t] -= (1 - label_smoothing) * scale
    # forward: at_average = z.mean(axis=-1) if label_smoothing else 0.0
    # forward: label_smoothing * at_average
    if label_smoothing:
        p -= (label_smoothing / vocabulary * scale)[:, None]
    return loss, (p if given is z else _rounded_into(given, p)).reshape(logits.shape)


def _rounded_into(given, p):
    given[...] = p
    return given


def cross_entropy_backward(dloss, saved):
    """dloss (0-d)  ->  dlogits (..., V), in the buffer that forward wrote"""
    # forward: loss = before + xp.where(counted, losses, 0).sum(dtype=exact) / count: the
    # gradient for dloss = 1 was computed there, and it is linear in dloss
    dlogits = saved
    if dloss != 1:
        dlogits *= dloss
    return dlogits


class CrossEntropy(Layer):
    """Mean cross-entropy of logits (..., V) against targets (...).

    The logits are overwritten with their gradient.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0):
        """ignore_index: a target that does not count; label_smoothing: e, from 0 to below 1."""
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits, targets):
        """logits (..., V), overwritten; targets (...) int  ->  the mean loss in nats (0-d,
        float64).

        Raises ValueError if every target is ignored.
        """
        forward, backward = dispatch(logits, cross_entropy_forward, cross_entropy_backward)
        loss, saved = forward(logits, targets, self.ignore_index, self.label_smoothing)
        self.save_for_backward((backward, saved))
        return loss

    def backward(self, dloss=1.0):
        """dloss (0-d)  ->  dlogits (..., V). Raises RuntimeError without a forward before it."""
        cross_entropy_backward, saved = self.take_saved()
        # forward: loss, saved = forward(logits, targets, self.ignore_index, self.label_smoothing)
        return cross_entropy_backward(dloss, saved)
