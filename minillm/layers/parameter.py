"""A trained tensor, its gradient, and for products in bfloat16 a rounded copy of it.

On a device a model in bfloat16 multiplies by its weights rounded to bfloat16. The weights
themselves stay in float32 (precision.py). `operand` keeps the rounded copy, so that a weight is
rounded once a step, by the optimizer's kernel, which has it at hand, and not by each product.

The copy must never be older than the weight. A write into an array cannot be noticed, so all that
could lead to one counts as one:

- `value` hands the array out: the copy is dropped. `peek` is for a reader who does not write.
- What got the array may keep it and write later. While there is another reference to the array, its
  base or its memory, a new copy serves one call of `operand`, and the next call makes it anew.
"""

from __future__ import annotations

import numpy as np

from minillm.backend.arrays import array_module, device_of, is_held_elsewhere, to_device
from minillm.backend.precision import is_bfloat16

ROW_MULTIPLE = 64  # rows of a copy, so that a product with as many columns has aligned rows


class Parameter:
    """A trained tensor: `value`, and `grad`, the gradient of the loss with respect to it (None
    until backward adds one).

    A `frozen` one does not learn: gradients that are added to it are dropped, and most layers do
    not compute them.

    value: an array of floats, in any memory layout; a number becomes a 0-d array. outputs_axis: for
    the matrix of a linear map, the axis of its outputs, 0 or 1; None for all else. Raises TypeError
    for a value that is anything else.
    """

    frozen = False
    cut = None  # which part of a tensor this is, where ranks share it (cut.py)
    home = None  # where the gradient is to be, an array of the value's shape, if not in memory of its own
    whole_ndim = None  # of a piece of a parameter: how many dimensions the whole has

    def __init__(self, value, outputs_axis: int | None = None):
        if isinstance(value, (int, float, list, tuple)) and not isinstance(value, np.generic):
            value = np.array(value, float)
        elif isinstance(value, np.generic):
            value = np.array(value)
        if getattr(getattr(value, "dtype", None), "kind", "") not in ("f", "V"):  # V: bfloat16
            found = getattr(value, "dtype", type(value).__name__)
            raise TypeError(f"a Parameter holds an array of floats, not {found}: only those can be changed a little")
        self.value = value
        self.outputs_axis = outputs_axis
        self.grad = None
        self._buffer = None  # the memory that the gradient has, if it came from `grad_buffer` ...
        self._spare = None  # ... and once that is forgotten

    @property
    def value(self):
        """The array, which the caller may write into."""
        self._is_copy_current = False
        return self._value

    @value.setter
    def value(self, value):
        self._value = value
        self._copy = None  # the value in bfloat16, (rows of ROW_MULTIPLE, ...) for a matrix
        self._is_copy_current = False

    def peek(self):
        """The array, for a reader who neither writes into it nor keeps it."""
        return self._value

    def operand(self, like, padded: bool = False):
        """The array for products with `like`: the copy in bfloat16 where `like` is bfloat16 on a
        device, else the value. Not to be written into.

        padded: of a matrix (V, C) all rows of the copy, V rounded up to a multiple of
        ROW_MULTIPLE; those beyond V are zero. The value has no more than V.
        """
        if not is_bfloat16(like) or device_of(self._value) == "cpu" or is_bfloat16(self._value):
            return self._value
        if not self._is_copy_current:
            if self._copy is None:
                self._copy = _room_for_copy(self._value, like.dtype)
            self._rows_of_copy()[...] = self._value
            self._is_copy_current = not self._is_value_shared()
        return self._copy if padded else self._rows_of_copy()

    def is_operand(self, array) -> bool:
        """Whether `array` is what `operand` gives: the value, or its copy with or without the rows
        of zeros.
        """
        if self._copy is None or array is self._value:
            return array is self._value
        return array is self._copy or getattr(array, "base", None) is self._copy

    def is_operand_stale(self) -> bool:
        """Whether there is a copy that is older than the value may be."""
        return self._copy is not None and not self._is_copy_current

    def operand_to_write(self):
        """The copy, of the value's shape, for an optimizer that writes it together with the value
        and then calls `operand_written`.

        None where there is no copy so far, or where it cannot be kept. Call this before `peek`: a
        reference to the value counts as one of those that others hold.
        """
        return None if self._copy is None or self._is_value_shared() else self._rows_of_copy()

    def operand_written(self, copy) -> None:
        """To be called once the value has changed, and with it the copy, which
        `operand_to_write` gave; None if that gave none.
        """
        self._is_copy_current = copy is not None

    def _rows_of_copy(self):
        copy = self._copy
        return copy if copy.shape == self._value.shape else copy[: len(self._value)]

    def _is_value_shared(self) -> bool:
        return is_held_elsewhere(self, "_value")

    def __getstate__(self):
        self._is_copy_current = False  # a shallow copy holds the same arrays
        return vars(self) | {"_copy": None}

    def to(self, device: str) -> None:
        """Move the value to a device; the gradient and its memory are dropped."""
        self.value = to_device(self._value, device)
        self.grad = self._buffer = self._spare = self.home = None

    def zero_grad(self) -> None:
        """Forget the gradient. Its memory is kept for `grad_buffer` if it came from there, and free
        otherwise.
        """
        if self.grad is not None:
            self._spare, self._buffer, self.grad = self._buffer, None, None

    def grad_buffer(self, rows: int | None = None):
        """As `empty_gradient`, filled with zeros."""
        buffer = self.empty_gradient(rows)
        if device_of(buffer) == "cuda":
            buffer[...] = 0
        return buffer

    def empty_gradient(self, rows: int | None = None):
        """An array like the value for a gradient too large to be made afresh in every step. It is
        not initialized on a GPU.

        rows: of an array with more rows than the value, whose first ones the gradient is.
        """
        if self.home is not None and self.grad is None and rows in (None, *self._value.shape[:1]):
            self.home[...] = 0
            return self.home
        shape = self._value.shape if rows is None else (rows, *self._value.shape[1:])
        buffer, self._spare = self._spare, None
        if buffer is None or buffer.shape[:1] < shape[:1]:
            buffer = array_module(self._value).empty_like(self._value, shape=shape, order="C")
        if self.grad is None:
            self._buffer = buffer
        if device_of(buffer) != "cuda":
            buffer[...] = 0  # inspection reads all that an operation gets
        return buffer if buffer.shape == shape else buffer[: shape[0]]

    def grad_place(self):
        """(array, whether to add) for a product that is the gradient, or a part of it, and is
        handed to `add_grad` then: the gradient so far, or its home. (None, False) where there is
        neither, or no product can be written into it.
        """
        grad = self.home if self.grad is None else self.grad
        if grad is None or not grad.flags.c_contiguous or isinstance(grad, np.ndarray) and not grad.flags.writeable:
            return None, False
        return grad, grad is self.grad

    def grad_to_add_to(self):
        """The array of `grad_place` where it is the gradient so far, else None."""
        place, add = self.grad_place()
        return place if add else None

    def add_grad(self, grad) -> None:
        """Add `grad` (same shape as the value) to the gradient.

        The first gradient is stored without a copy, or copied to its `home`, and later ones are
        added into it: the caller must not modify it, and it must not be dy, dx or a view of them.
        One that `grad_place` gave has been added already. Raises ValueError for another shape.
        """
        if not hasattr(grad, "shape"):
            grad = np.array(grad, self._value.dtype)
        if grad.shape != self._value.shape:
            raise ValueError(f"gradient of shape {grad.shape} for a parameter of shape {self._value.shape}")
        if self.frozen or grad is self.grad:
            return
        if self.grad is None and self.home is not None:
            if grad is not self.home:
                self.home[...] = grad
            self.grad = self.home
        elif self.grad is None:
            self.grad = grad
        elif 0 in self.grad.strides or isinstance(self.grad, np.ndarray) and not self.grad.flags.writeable:
            self.grad = self.grad + grad  # a broadcast array: NumPy's cannot be written, CuPy's has one number for many
        else:
            self.grad += grad

    def __repr__(self):
        return f"Parameter(shape={self._value.shape}, dtype={self._value.dtype})"


def _room_for_copy(value, dtype):
    """A C-ordered array for the copy; of a matrix, with rows of zeros up to a multiple of
    ROW_MULTIPLE.
    """
    shape = value.shape
    if value.ndim == 2:
        shape = (-(-shape[0] // ROW_MULTIPLE) * ROW_MULTIPLE, shape[1])
    copy = array_module(value).empty_like(value, shape=shape, dtype=dtype, order="C")
    copy[len(value) if value.ndim else 0 :] = 0
    return copy
