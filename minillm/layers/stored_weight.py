"""A weight that stays as its file holds it, in 16 bits or fewer, and is expanded as it is used.

    y = x @ W,  W stored as (in, out):   y   += x[:, i:j] @ expand(stored[i:j])         a block of W's rows at a time
    y = x @ W^T, W stored as (out, in):  y[:, i:j] = x @ expand(stored[i:j])^T

A model then takes the memory of its file, one block and the cache, where its float32 weights take
two to seven times as much. The sums are those of the float32 weights, in another order. How bytes
become numbers is in files/number_formats.py, and how a product is computed in stored_product.py: a
block is expanded and multiplied while it is in the processor's caches, so what comes from memory is
the file's bytes.

A StoredWeight takes an array's place in a Parameter: `x @ weight` and `weight[ids]` give arrays
(NumPy's protocol for such types is `__array_ufunc__`), so no layer knows of it. It cannot be
written: its Parameter is frozen. LoRA can learn over it.
"""

from __future__ import annotations

import numpy as np

from minillm.errors import UserError
from minillm.files.mapped_pages import release_pages
from minillm.files.number_formats import NumberFormat, groups_not_finite
from minillm.layers.arranged_weight import Strip, arranged
from minillm.layers.parameter import Parameter
from minillm.layers.stored_product import blocks_of_rows, room, stored_products


class StoredWeight:
    """A matrix of float32 numbers, (R, C) or seen transposed, in the bytes of a file.

    stored: rows of bytes, uint8 (R, C / group * group_bytes); of a file that is mapped into memory
    no more is read than is used. order (R,): which of them is row 0, 1, ... of the matrix; None: as
    they are. columns: C. Raises UserError for bytes that do not fit the format.
    """

    dtype = np.dtype(np.float32)  # of the numbers that it is expanded to
    ndim, itemsize = 2, 4

    def __init__(self, stored: np.ndarray, number_format: NumberFormat, order: np.ndarray | None = None):
        if stored.ndim != 2 or stored.dtype != np.uint8 or stored.shape[1] % number_format.group_bytes:
            raise UserError(f"{stored.dtype} of shape {stored.shape} are not rows of {number_format.name}")
        self.stored, self.format, self.order = stored, number_format, order
        self.columns = stored.shape[1] // number_format.group_bytes * number_format.group
        self.transposed, self._turned, self._strips = False, None, None

    # ------------------------------------------------------------------ as an array

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix as it is used."""
        return (self.columns, len(self.stored)) if self.transposed else (len(self.stored), self.columns)

    @property
    def T(self) -> StoredWeight:
        """The transposed matrix, of the same bytes."""
        if self._turned is None:
            self._turned = StoredWeight(self.stored, self.format, self.order)
            self._turned.transposed, self._turned._turned = not self.transposed, self
        return self._turned

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return len(self.stored) * self.columns

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
        stored = self.stored[ids if self.order is None else self.order[ids]]
        rows = np.ascontiguousarray(stored.reshape(-1, stored.shape[-1]))
        out = np.empty((len(rows), self.columns), np.float32)
        self.format.expand(rows, out)
        return out.reshape(*stored.shape[:-1], self.columns)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(None,), **settings):
        x, weight = inputs if len(inputs) == 2 else (None, None)
        if ufunc is not np.matmul or method != "__call__" or settings or not isinstance(x, np.ndarray):
            raise TypeError(f"a weight that is kept as its file holds it is multiplied only, not used by {ufunc}")
        y = stored_products(x, [weight])
        if out[0] is None:
            return y
        out[0][...] = y
        return out[0]

    def __repr__(self):
        return f"StoredWeight(shape={self.shape}, {self.format.name})"

    # ----------------------------------------------------------------------- blocks

    def block(self, start: int, stop: int, columns: slice = slice(None)) -> np.ndarray:
        """Rows start to stop of the matrix as it is stored, as float32, until this thread's next
        block. columns: at multiples of 256, which no group crosses.
        """
        first, last, _ = columns.indices(self.columns)
        out = room((stop - start) * (last - first)).reshape(stop - start, last - first)
        self.format.expand(self._bytes(start, stop, first, last), out)
        return out

    def halves(self, start: int, stop: int, columns: slice = slice(None)) -> np.ndarray:
        """As `block`, of a format of 16 bits: the even columns and then the odd ones, float32 (2,
        stop - start, columns / 2), divided by 2^exponent of the format.
        """
        first, last, _ = columns.indices(self.columns)
        words = self._bytes(start, stop, first, last).view("<i4")
        out = room(2 * words.size).view(np.int32).reshape(2, *words.shape)
        self.format.halves(words, out)
        return out.view(np.float32)

    def strips(self) -> list[Strip]:
        """The blocks of rows, arranged (arranged_weight.py) once and then kept, in place of the
        file's pages.
        """
        if self._strips is None:
            strips = []
            for start, stop in blocks_of_rows(len(self.stored), self.columns):
                strips.append(arranged(self._bytes(start, stop, 0, self.columns), self.format.name))
                release_pages(self.stored)
            self._strips = strips
        return self._strips

    def expand(self) -> np.ndarray:
        """The whole matrix as a float32 array of its own."""
        out = np.empty((len(self.stored), self.columns), np.float32)
        for start, stop in blocks_of_rows(*out.shape):
            out[start:stop] = self.block(start, stop)
        return out.T if self.transposed else out

    def first_not_finite(self) -> tuple[int, int] | None:
        """The place of the first NaN or infinity as it is stored, or None."""
        for start, stop in blocks_of_rows(len(self.stored), self.columns):
            group, wrong = self.format.group, groups_not_finite(self._bytes(start, stop, 0, self.columns), self.format)
            if wrong is None:
                group, wrong = 1, ~np.isfinite(self.block(start, stop))
            if wrong.any():
                row, number = np.unravel_index(np.argmax(wrong), wrong.shape)
                return start + int(row), int(number) * group
        return None

    def _bytes(self, start: int, stop: int, first: int, last: int) -> np.ndarray:
        """Of rows start to stop, the bytes of columns first to last."""
        group, group_bytes = self.format.group, self.format.group_bytes
        rows = slice(start, stop) if self.order is None else self.order[start:stop]
        return self.stored[rows, first // group * group_bytes : -(-last // group) * group_bytes]


def refuse_stored(layer, what: str) -> None:
    """Raises UserError for a layer with weights as their file holds them, which cannot `what`."""
    if names := stored_parameters(layer.parameters()):
        raise UserError(
            f"a model whose weights stay as its file holds them ({names[0]}) cannot {what}: open it with float32 weights"
        )


def stored_parameters(parameters: dict[str, Parameter]) -> list[str]:
    """The names of those whose values are as their file holds them."""
    return [name for name, parameter in parameters.items() if isinstance(parameter.peek(), StoredWeight)]
