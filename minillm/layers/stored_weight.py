"""A weight that stays as its file holds it, in 16 bits or fewer, and is expanded as it is used.

    y = x @ W,  W stored as (in, out):   y   += x[:, i:j] @ expand(stored[i:j])         a block of W's rows at a time
    y = x @ W^T, W stored as (out, in):  y[:, i:j] = x @ expand(stored[i:j])^T

A model then takes the memory of its file, one block and the cache, where its float32 weights take
two to seven times as much. The sums are those of the float32 weights, in another order. How bytes
become numbers is in files/number_formats.py.

A block is expanded and multiplied while it is in the processor's caches, so what comes from memory
is the file's bytes. Expanding costs more time than that saves: a model of small matrices writes
slower in every format than in float32 (docs/models.md has `python -m benchmarks.stored_weights`).

A StoredWeight takes an array's place in a Parameter: `x @ weight` and `weight[ids]` give arrays
(NumPy's protocol for such types is `__array_ufunc__`), so no layer knows of it. It cannot be
written: its Parameter is frozen. LoRA can learn over it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from minillm.backend.threads import blas_threads, thread_count
from minillm.errors import UserError
from minillm.files.number_formats import NumberFormat
from minillm.layers.parameter import Parameter

BLOCK = 1 << 19  # numbers that a thread expands at a time: 2 MB; smaller blocks cost more calls
ALIGNED = 256  # columns that are taken apart at multiples of this: no group of numbers is larger
_room = threading.local()  # the block of each thread


class StoredWeight:
    """A matrix of float32 numbers, (R, C) or seen transposed, in the bytes of a file.

    stored: rows of bytes, uint8 (R, C / group * group_bytes); of a file that is mapped into memory
    no more is read than is used. Raises UserError for bytes that do not fit the format.
    """

    dtype = np.dtype(np.float32)  # of the numbers that it is expanded to
    ndim, itemsize = 2, 4

    def __init__(self, stored: np.ndarray, number_format: NumberFormat, transposed: bool = False):
        if stored.ndim != 2 or stored.dtype != np.uint8 or stored.shape[1] % number_format.group_bytes:
            raise UserError(f"{stored.dtype} of shape {stored.shape} are not rows of {number_format.name}")
        self.stored, self.format, self.transposed = stored, number_format, transposed
        self._rows = len(stored)
        self._columns = stored.shape[1] // number_format.group_bytes * number_format.group

    # ------------------------------------------------------------------ as an array

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix as it is used."""
        return (self._columns, self._rows) if self.transposed else (self._rows, self._columns)

    @property
    def T(self) -> StoredWeight:
        """The transposed matrix, of the same bytes."""
        return StoredWeight(self.stored, self.format, not self.transposed)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return self._rows * self._columns

    @property
    def nbytes(self) -> int:
        """The bytes that it takes, in memory or in its file."""
        return self.stored.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, ids) -> np.ndarray:
        """ids (...) int, or a slice  ->  the rows of the matrix, float32 (..., C), as a table of
        embeddings is read.
        """
        if self.transposed:
            raise TypeError("rows of a stored weight that is seen transposed are not at hand: take those of .T")
        stored = self.stored[ids]
        rows = np.ascontiguousarray(stored.reshape(-1, stored.shape[-1]))
        out = np.empty((len(rows), self._columns), np.float32)
        self.format.expand(rows, out)
        return out.reshape(*stored.shape[:-1], self._columns)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(None,), **settings):
        x, weight = inputs if len(inputs) == 2 else (None, None)
        if ufunc is not np.matmul or method != "__call__" or settings or not isinstance(x, np.ndarray):
            raise TypeError(f"a weight that is kept as its file holds it is multiplied only, not used by {ufunc}")
        return stored_product(x, weight, out[0])

    def __repr__(self):
        return f"StoredWeight(shape={self.shape}, {self.format.name})"

    # ----------------------------------------------------------------------- blocks

    def block(self, start: int, stop: int, columns: slice = slice(None)) -> np.ndarray:
        """Rows start to stop of the matrix as it is stored, as float32, until this thread's next
        block. columns: at multiples of ALIGNED.
        """
        first, last, _ = columns.indices(self._columns)
        group, group_bytes = self.format.group, self.format.group_bytes
        stored = self.stored[start:stop, first // group * group_bytes : -(-last // group) * group_bytes]
        out = _buffer((stop - start) * (last - first)).reshape(stop - start, last - first)
        self.format.expand(stored, out)
        return out

    def expand(self) -> np.ndarray:
        """The whole matrix as a float32 array of its own."""
        out = np.empty((self._rows, self._columns), np.float32)
        for start, stop in self.blocks_of_rows(BLOCK):
            out[start:stop] = self.block(start, stop)
        return out.T if self.transposed else out

    def blocks_of_rows(self, numbers: int):
        """(start, stop) of the stored rows that make up blocks of so many numbers."""
        rows = max(1, numbers // self._columns)
        return [(start, min(start + rows, self._rows)) for start in range(0, self._rows, rows)]

    def first_not_finite(self) -> tuple[int, int] | None:
        """The place of the first NaN or infinity as it is stored, or None."""
        for start, stop in self.blocks_of_rows(BLOCK):
            block = self.block(start, stop)
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(block.sum()):
                    continue
            if not (finite := np.isfinite(block)).all():
                row, column = np.unravel_index(np.argmin(finite), finite.shape)
                return start + int(row), int(column)
        return None


def refuse_stored(layer, what: str) -> None:
    """Raises UserError for a layer with weights as their file holds them, which cannot `what`."""
    if names := stored_parameters(layer.parameters()):
        raise UserError(
            f"a model whose weights stay as its file holds them ({names[0]}) cannot {what}: open it with float32 weights"
        )


def stored_parameters(parameters: dict[str, Parameter]) -> list[str]:
    """The names of those whose values are as their file holds them."""
    return [name for name, parameter in parameters.items() if isinstance(parameter.peek(), StoredWeight)]


# ------------------------------------------------------------------------------------------------ the product


def stored_product(x, weight: StoredWeight, out=None):
    """x (..., I) @ weight (I, O)  ->  y (..., O), written into `out` where there is one.

    The blocks are divided among threads so that the result does not depend on their number.
    """
    if x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x of shape {x.shape} and a weight of shape {weight.shape} cannot be multiplied")
    rows = x.reshape(-1, x.shape[-1])  # (N, I)
    y = np.empty((len(rows), weight.shape[1]), np.result_type(x, np.float32))
    if weight.transposed:
        _share(lambda part: _write_outputs(rows, weight, y, part), weight.blocks_of_rows(BLOCK))
    else:
        width = max(ALIGNED, -(-weight.shape[1] // (ALIGNED * MOST_SHARES)) * ALIGNED)
        starts = range(0, weight.shape[1], width)
        columns = [slice(start, min(start + width, weight.shape[1])) for start in starts]
        _share(lambda part: [_add_inputs(rows, weight, y, each) for each in part], columns)
    y = y.reshape(*x.shape[:-1], -1)
    if out is None:
        return y
    out[...] = y
    return out


MOST_SHARES = 4  # of the columns of a weight (in, out): more threads than these are not used


def _write_outputs(x, weight, y, blocks) -> None:
    """y[:, start:stop] = x @ W[start:stop]^T, W stored as (O, I): (N, I) @ (I, o)"""
    for start, stop in blocks:
        np.matmul(x, weight.block(start, stop).T, out=y[:, start:stop])


def _add_inputs(x, weight, y, columns: slice) -> None:
    """y[:, columns] = sum over blocks of x[:, start:stop] @ W[start:stop, columns], W stored as (I,
    O): (N, i) @ (i, o)
    """
    width = columns.stop - columns.start
    rows, inputs = max(1, BLOCK // width), weight.shape[0]
    y[:, columns] = 0
    for start in range(0, inputs, rows):
        stop = min(start + rows, inputs)
        y[:, columns] += x[:, start:stop] @ weight.block(start, stop, columns)


def _share(work, parts: list) -> None:
    """Call `work` with lists that together are `parts`, one for each thread of NumPy's BLAS."""
    threads = min(thread_count() or 1, len(parts))
    share = -(-len(parts) // threads)
    first, *others = (parts[start : start + share] for start in range(0, len(parts), share))
    with blas_threads(1):  # each of ours makes its own products
        waiting = [_pool(threads).submit(work, each) for each in others]
        work(first)
        for each in waiting:
            each.result()


def _buffer(numbers: int) -> np.ndarray:
    """Memory for so many float32 numbers, the same for each block of a thread."""
    room = getattr(_room, "numbers", None)
    if room is None or len(room) < numbers:
        room = _room.numbers = np.empty(numbers, np.float32)
    return room[:numbers]


@lru_cache(maxsize=2)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="stored weight")
