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

On a device the rows of a chunk's logits begin at multiples of 64 numbers, and the chunks are of
equal size. A GPU multiplies matrices at full speed if their rows begin at multiples of 16 bytes,
and if they have as many columns. So W may have more rows than V, all zero (parameter.py): their
logits are zero, and those columns of dlogits, too, which is why they add nothing to dx.

In bfloat16 x is rounded, and so is W for the products. Softmax and loss are computed in float32,
dlogits are rounded when they are written, and dW is added up in float32. Logits are float32 on the
CPU, and rounded to bfloat16 on a device, where they are read and written three times.
"""

from __future__ import annotations

from minillm.backend.arrays import array_module, device_of
from minillm.backend.matmul import empty_operand, matmul
from minillm.backend.precision import gradient_dtype, is_bfloat16
from minillm.kernels import dispatch
from minillm.layers.cross_entropy import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from minillm.layers.layer import Layer, Parameter
from minillm.layers.parameter import ROW_MULTIPLE

# Logits in float32 that exist at a time: 44 MiB, and 1 GiB on a GPU, which wants thousands of rows
# to a product; as many bytes of logits in bfloat16.
CHUNK_LOGITS = {"cpu": 11 << 20, "cudasim": 11 << 20, "cuda": 1 << 28}
STRIP_ROWS = 4096  # rows of dW that are computed at a time, but on a GPU, whose products add to what is there
CHUNK_MULTIPLE = 256  # rows: a multiple of the tiles that a GPU's products are computed in


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
    vocabulary=None,
):
    """x (..., C), weight (V, C), targets (...) int  ->  mean loss in nats (0-d, float64), saved

    ignore_index and label_smoothing: see cross_entropy.py. dweight: an array (V, C) for the
    weight's gradient, which is written over; by default a new one. chunk_rows: rows of logits that
    exist at a time; by default as many as `rows_of_chunk` says. count: what the sum of losses is
    divided by, a number or 0-d; by default the number of targets that are not ignored. vocabulary:
    V, where weight and dweight have more rows than that, which are zero in weight. With
    needs_gradient=False only the loss is computed, and saved is None; with needs_dweight=False
    dweight is None. Raises ValueError if every target is ignored.
    """
    xp = array_module(x)
    rows = x.reshape(-1, x.shape[-1])  # (N, C)
    t = targets.reshape(-1)  # (N,)
    vocabulary = len(weight) if vocabulary is None else vocabulary
    if count is None:
        count = (t != ignore_index).sum(dtype="float64")
    if not t.size or device_of(count) == "cpu" and count == 0:  # on a device the loss is NaN then: no wait to look
        raise ValueError(f"all {t.size} targets are ignore_index ({ignore_index}), there is nothing to average")
    chunk_rows = chunk_rows or rows_of_chunk(len(rows), vocabulary, device_of(x), x.itemsize)
    strip_rows = len(weight) if device_of(weight) == "cuda" else STRIP_ROWS
    room = RoomForLogits(min(chunk_rows, len(rows)), x, weight)
    if needs_gradient:
        dx = xp.empty_like(rows)
        if needs_dweight and dweight is None:
            dweight = xp.empty_like(weight, dtype=gradient_dtype(weight), order="C")
    loss = 0.0
    for start in range(0, len(rows), chunk_rows):
        chunk = slice(start, start + chunk_rows)
        logits = matmul(rows[chunk], weight.T, room.part(len(t[chunk])), gradient_dtype(weight))  # (n, C) @ (C, V)
        forward, _ = dispatch(logits, cross_entropy_forward, cross_entropy_backward)
        loss, _ = forward(logits[:, :vocabulary], t[chunk], ignore_index, label_smoothing, count, loss)
        if needs_gradient:
            dlogits = room.rounded(logits)  # forward has written their gradient over the logits
            # forward: logits = matmul(rows[chunk], weight.T, ...)
            matmul(dlogits, weight, out=dx[chunk])  # (n, V) @ (V, C)
            for first in range(0, len(weight) if needs_dweight else 0, strip_rows):
                strip = slice(first, first + strip_rows)
                matmul(dlogits[:, strip].T, rows[chunk], out=dweight[strip], add=start > 0)  # (v, n) @ (n, C)
            del dlogits
        del logits  # before the next chunk's are made
    return loss, (dx.reshape(x.shape), dweight) if needs_gradient else None


def rows_of_chunk(rows: int, vocabulary: int, device: str, itemsize: int) -> int:
    """How many of so many rows have their logits at a time: as many as CHUNK_LOGITS allows.

    itemsize: bytes of a number of x. On a device all chunks but the last are of one size, a
    multiple of CHUNK_MULTIPLE, and the last one is nearly as large:

    >>> [rows_of_chunk(rows, 2000, "cudasim", 4) for rows in (100, 5000, 16384, 17000)]
    [256, 5120, 5632, 4352]
    """
    most = max(1, CHUNK_LOGITS[device] // vocabulary)
    if device == "cpu":
        return most
    most *= 2 if itemsize == 2 else 1
    multiple = CHUNK_MULTIPLE if most >= CHUNK_MULTIPLE else 1
    chunks = -(-rows // (most // multiple * multiple))
    return -(-rows // (chunks * multiple)) * multiple


class RoomForLogits:
    """Memory for the logits of a chunk, and their rounded gradient, for all chunks.

    rows: of the largest chunk. x, weight: the operands of the product. On the CPU the product makes
    its own array.
    """

    def __init__(self, rows: int, x, weight):
        self._memory = self._rounded = None
        if device_of(x) == "cpu":
            self._rounded = empty_operand(rows, len(weight), like=x)  # None where nothing is to be rounded
        else:
            width = -(-len(weight) // ROW_MULTIPLE) * ROW_MULTIPLE
            dtype = x.dtype if is_bfloat16(x) else gradient_dtype(weight)
            self._memory = array_module(x).empty_like(x, shape=(rows, width), dtype=dtype, order="C")
            self._memory = self._memory[:, : len(weight)]

    def part(self, rows: int):
        """Where a product is to write so many rows of logits; None: into an array of its own."""
        return None if self._memory is None else self._memory[:rows]

    def rounded(self, dlogits):
        """dlogits as an operand of products: in the precision of x."""
        if self._rounded is None:
            return dlogits
        rounded = self._rounded[: len(dlogits)]
        rounded[...] = dlogits
        return rounded


def linear_cross_entropy_backward(dloss, saved):
    """dloss (0-d)  ->  dx (..., C), dweight (V, C)"""
    # forward: loss, _ = forward(logits[:, :vocabulary], t[chunk], ignore_index, ...): both were
    # computed there for dloss = 1, and the gradient is linear in dloss
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
        weight = self.weight.operand(x, padded=True)
        dweight = None
        if self.training and not self.weight.frozen:
            dweight = self.weight.empty_gradient(len(weight))
        loss, saved = linear_cross_entropy_forward(
            x,
            weight,
            targets,
            self.ignore_index,
            self.label_smoothing if self.training else 0.0,
            needs_gradient=self.training,
            dweight=dweight,
            count=count,
            needs_dweight=dweight is not None,
            vocabulary=len(self.weight.peek()),
        )
        self.save_for_backward(saved)
        return loss

    def backward(self, dloss=1.0):
        """dloss (0-d)  ->  dx (..., C); adds to the weight's gradient.

        Raises RuntimeError without a forward before it.
        """
        # forward: loss, saved = linear_cross_entropy_forward(x, weight, targets, ...)
        dx, dweight = linear_cross_entropy_backward(dloss, self.take_saved())
        if dweight is not None:
            self.weight.add_grad(dweight[: len(self.weight.peek())])
        return dx
