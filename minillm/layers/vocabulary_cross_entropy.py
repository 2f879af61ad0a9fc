r"""The head and its loss over a vocabulary that is cut: no rank ever has all scores of a token.

Source: Shoeybi et al., "Megatron-LM" (2019), section 3, who fuse the head with the loss because
gathered logits would be N n V numbers, and this exchanges 3 n. cross_entropy.py and
linear_cross_entropy.py derive the loss and why the rows are taken in chunks.

Rank r has the rows W_r of the tokens v of its part. For a row x with the target t:

    z_v = sum_c x_c w_vc              for the tokens v of rank r
    m   = max_r max_v z_v             one maximum exchanged: exp does not overflow in any rank
    l   = sum_r sum_v exp(z_v - m)    one sum exchanged, and with it, in the same array,
    z_t = sum_r z_t [t is of rank r]  the score of the target, which one rank has
    loss = log l + m - z_t

With label smoothing e the sum of z_v goes along: loss = log l + m - (1 - e) z_t - e/V sum_v z_v.

Backward. Each rank has m and l, so it has p_v = exp(z_v - m) / l of its own tokens, and with it the
gradient of its own scores, without another exchange:

    dz_v = (p_v - (1 - e) [v = t] - e/V) / count      for the tokens v of rank r
    dW_r = dz_r^T x                                   its own rows alone
    dx   = sum_r dz_r W_r                             x is read by all ranks: f, one exchange

m needs no gradient: the loss does not change with a constant shift. The exchanges of l and z_t are
sums (g), whose gradient is the identity: d loss/d l = 1/l in every rank.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module, device_of
from minillm.backend.matmul import matmul
from minillm.backend.precision import gradient_dtype, upcast
from minillm.layers.cross_entropy import IGNORE_INDEX
from minillm.layers.layer import Parameter
from minillm.layers.linear_cross_entropy import STRIP_ROWS, LinearCrossEntropy, RoomForLogits, rows_of_chunk
from minillm.layers.ranks import maximum_over_ranks, share_of, sum_over_ranks
from minillm.layers.softmax import row_max, row_sum


def vocabulary_cross_entropy_forward(
    x,
    weight,
    targets,
    vocabulary,
    communicator,
    ignore_index=IGNORE_INDEX,
    label_smoothing=0.0,
    needs_gradient=True,
    dweight=None,
    chunk_rows=None,
    count=None,
    needs_dweight=True,
):
    """x (..., C), whole, weight (V_r, C), targets (...) int  ->  mean loss in nats (0-d, float64),
    the same in all ranks, saved

    vocabulary: V. The others are those of linear_cross_entropy_forward, which says what is raised.
    """
    xp = array_module(x)
    rows = x.reshape(-1, x.shape[-1])  # (N, C)
    t = targets.reshape(-1)  # (N,)
    own = share_of(communicator.rank, communicator.size, vocabulary)
    if count is None:
        count = (t != ignore_index).sum(dtype="float64")
    if not t.size or device_of(count) == "cpu" and count == 0:
        raise ValueError(f"all {t.size} targets are ignore_index ({ignore_index}), there is nothing to average")
    largest_part = -(-vocabulary // communicator.size)  # the same chunks in all ranks
    chunk_rows = chunk_rows or rows_of_chunk(len(rows), largest_part, device_of(x), x.itemsize)
    strip_rows = len(weight) if device_of(weight) == "cuda" else STRIP_ROWS
    room = RoomForLogits(min(chunk_rows, len(rows)), x, weight)
    if needs_gradient:
        dx = xp.empty_like(rows)
        if needs_dweight and dweight is None:
            dweight = xp.empty_like(weight, dtype=gradient_dtype(weight), order="C")
    loss = 0.0
    for start in range(0, len(rows), chunk_rows):
        chunk = slice(start, start + chunk_rows)
        z = matmul(rows[chunk], weight.T, room.part(len(t[chunk])), gradient_dtype(weight))  # (n, C) @ (C, V_r)
        loss, dz = _loss_of_chunk(
            z, t[chunk], own, vocabulary, communicator, ignore_index, label_smoothing, count, loss
        )
        if needs_gradient:
            dz = room.rounded(dz)
            # forward: z = matmul(rows[chunk], weight.T, ...): this rank's term of dx
            matmul(dz, weight, out=dx[chunk])  # (n, V_r) @ (V_r, C)
            for first in range(0, len(weight) if needs_dweight else 0, strip_rows):
                strip = slice(first, first + strip_rows)
                matmul(dz[:, strip].T, rows[chunk], out=dweight[strip], add=start > 0)  # (v, n) @ (n, C)
        del z, dz  # before the next chunk's are made
    return loss, (dx.reshape(x.shape), dweight) if needs_gradient else None


def vocabulary_cross_entropy_backward(dloss, saved, communicator):
    """dloss (0-d)  ->  dx (..., C), dweight (V_r, C); dx is whole"""
    # forward: loss, dz = _loss_of_chunk(z, t[chunk], ...): the terms were computed there for
    # dloss = 1, and the gradient is linear in dloss
    dx, dweight = saved
    if dloss != 1:
        dx = dx * dloss
        dweight = None if dweight is None else dweight * dloss
    # forward: z = matmul(rows[chunk], weight.T, ...); rows = x.reshape(-1, x.shape[-1]): each rank
    # reads the same x
    dx = sum_over_ranks(dx, communicator)
    return dx, dweight


def _loss_of_chunk(z, t, own, vocabulary, communicator, ignore_index, label_smoothing, count, before):
    """z (n, V_r), overwritten, targets t (n,)  ->  the loss of these rows and those before (0-d,
    float64), dz (n, V_r)

    own: the tokens of this rank.
    """
    xp = array_module(z)
    given, z = z, upcast(z)
    counted, is_own = t != ignore_index, (t >= own.start) & (t < own.stop)  # (n,)
    rows, column = xp.arange(len(t)), xp.where(is_own, t - own.start, 0)

    m = maximum_over_ranks(row_max(z), communicator)  # (n, 1)
    z -= m
    at_target = xp.where(is_own, z[rows, column], 0)  # (n,)
    at_all = z.sum(axis=-1) if label_smoothing else xp.zeros_like(at_target)
    p = xp.exp(z, out=z)
    terms = xp.stack([row_sum(p)[:, 0], at_target, at_all])  # (3, n)
    total, at_target, at_all = sum_over_ranks(terms, communicator)
    losses = xp.log(total) - (1 - label_smoothing) * at_target - label_smoothing / vocabulary * at_all
    exact = xp.result_type(losses.dtype, "float64")
    loss = before + xp.where(counted, losses, 0).sum(dtype=exact) / count

    # forward: loss = before + xp.where(counted, losses, 0).sum(dtype=exact) / count
    scale = (counted / count).astype(z.dtype)  # (n,), 0 for ignored rows
    # forward: p = xp.exp(z, out=z); terms = xp.stack([row_sum(p)[:, 0], at_target, at_all])
    # forward: xp.log(total): the gradient of lse
    p *= (scale / total)[:, None]  # softmax / count
    # forward: at_target = xp.where(is_own, z[rows, column], 0); (1 - label_smoothing) * at_target
    p[rows, column] -= (1 - label_smoothing) * scale * is_own
    # forward: at_all = z.sum(axis=-1) if label_smoothing else xp.zeros_like(at_target)
    # forward: label_smoothing / vocabulary * at_all
    if label_smoothing:
        p -= (label_smoothing / vocabulary * scale)[:, None]
    if given is not z:
        given[...] = p
    return loss, given


class VocabularyCrossEntropy(LinearCrossEntropy):
    """Mean cross-entropy of the logits x @ weight.T over a vocabulary that is cut, x (..., C) and
    targets (...) -> 0-d.
    """

    def __init__(
        self, weight: Parameter, vocabulary: int, communicator, ignore_index=IGNORE_INDEX, label_smoothing=0.0
    ):
        """weight (V_r, C); vocabulary: V. ignore_index, label_smoothing: as in
        LinearCrossEntropy.
        """
        super().__init__(weight, ignore_index, label_smoothing)
        self.vocabulary = vocabulary
        self._communicator = communicator

    def forward(self, x, targets, count=None):
        """As LinearCrossEntropy.forward."""
        weight, learns = self.weight.operand(x), self.training and not self.weight.frozen
        loss, saved = vocabulary_cross_entropy_forward(
            x,
            weight,
            targets,
            self.vocabulary,
            self._communicator,
            self.ignore_index,
            self.label_smoothing if self.training else 0.0,
            needs_gradient=self.training,
            dweight=self.weight.empty_gradient() if learns else None,
            count=count,
            needs_dweight=learns,
        )
        self.save_for_backward(saved)
        return loss

    def backward(self, dloss=1.0):
        """As LinearCrossEntropy.backward."""
        # forward: loss, saved = vocabulary_cross_entropy_forward(x, weight, targets, ...)
        dx, dweight = vocabulary_cross_entropy_backward(dloss, self.take_saved(), self._communicator)
        if dweight is not None:
            self.weight.add_grad(dweight)
        return dx
