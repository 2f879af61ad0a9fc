"""Launcher of skinny_matmul.cu: products of a few rows with weights, for "cuda" and "cudasim"."""

from __future__ import annotations

from itertools import product

import numpy as np

from minillm.kernels.launch import FLOATS, CudaFile, ResourceLimit, blocks_for, c_type, check_array, empty

MAX_ROWS = 16  # of x: beyond it the tensor cores of a large product are worth their launches
ROWS = (1, 4, 8)  # of a block
ROW_WARPS, COLUMN_WARPS = 4, 16  # of a block
MATRICES = 3  # that one launch multiplies x with
NONE = np.uint64(0)  # a null pointer

NUMBERS = (("float", "float"), ("__nv_bfloat16", "__nv_bfloat16"), ("__nv_bfloat16", "float"))  # of x and w, of y
INSTANCES = {}
for (_number, _result), _rows in product(NUMBERS, ROWS):
    _template = f"<{_number}, {_result}, {_rows}>"
    INSTANCES[f"skinny_rows{_template}"] = ResourceLimit(registers=96)
    INSTANCES[f"skinny_columns{_template}"] = ResourceLimit(registers=96, shared=4 * COLUMN_WARPS * _rows * 32)
CUDA = CudaFile(
    __file__,
    "skinny_matmul.cu",
    INSTANCES,
    constants={"ROW_WARPS": ROW_WARPS, "COLUMN_WARPS": COLUMN_WARPS},
    one_by_one=True,
)


def skinny_matmul(x, weights, biases=None, transposed=False, residual=None, dtype=None) -> list:
    """y = residual + x W + b for each of up to three weights (one if not `transposed`).

    x (N, I), N at most MAX_ROWS; each weight (I, O) or, if transposed, (O, I), of the dtype of x;
    each bias (O,) float32 or None; residual (N, O) of the dtype of x, for a single weight, or None
    ->  for each weight y (N, O), of `dtype`, by default that of x. Raises TypeError or ValueError
    for other arrays.
    """
    rows, inputs = _check_x(x)
    biases = biases or [None] * len(weights)
    outputs = [_check_weight(x, weight, bias, transposed) for weight, bias in zip(weights, biases)]
    if len(weights) > (MATRICES if transposed else 1) or (residual is not None and len(weights) > 1):
        raise ValueError(
            f"skinny_matmul: {len(weights)} weights: at most {MATRICES}, if transposed and without residual"
        )
    if residual is not None:
        because = f"x is {x.shape} and the weight {weights[0].shape}"
        check_array(
            "skinny_matmul", "residual", residual, like=x, shape=(rows, outputs[0]), dtype=x.dtype, because=because
        )
    y = empty((rows * sum(outputs),), x, x.dtype if dtype is None else dtype)
    _launch(x, weights, biases, transposed, NONE if residual is None else residual, y, outputs)
    ends = np.cumsum([0, *(rows * count for count in outputs)]).tolist()
    return [y[start:stop].reshape(rows, -1) for start, stop in zip(ends, ends[1:])]


def _launch(x, weights, biases, transposed, residual, y, outputs) -> None:
    rows, inputs = x.shape
    in_block = next(count for count in ROWS if count >= min(rows, ROWS[-1]))
    template = f"<{c_type(x)}, {c_type(y)}, {in_block}>"
    biases = [NONE if bias is None else bias for bias in biases]
    groups = blocks_for(rows, in_block)
    sizes = (np.int32(rows), np.int32(inputs))
    if not transposed:
        grid = (blocks_for(outputs[0], 32), groups)
        arguments = (x, weights[0], biases[0], residual, y, *sizes, np.int32(outputs[0]))
        CUDA.launch(f"skinny_columns{template}", grid, (32 * COLUMN_WARPS,), arguments)
        return
    none = [NONE] * (MATRICES - len(weights))
    counts = [np.int32(count) for count in (*outputs, 0, 0)[:MATRICES]]
    wide = np.int32(inputs * x.itemsize % 16 == 0 and all(_address(array) % 16 == 0 for array in (x, *weights)))
    grid = (blocks_for(sum(outputs), ROW_WARPS), groups)
    arguments = (x, *weights, *none, *biases, *none, residual, y, *sizes, *counts, wide)
    CUDA.launch(f"skinny_rows{template}", grid, (32 * ROW_WARPS,), arguments)


def _check_x(x) -> tuple[int, int]:
    check_array("skinny_matmul", "x", x, dtype=FLOATS)
    if x.ndim != 2 or not 0 < x.shape[0] <= MAX_ROWS or not x.shape[1]:
        raise ValueError(f"skinny_matmul: x is {x.shape} but has to be (N, I) with N from 1 to {MAX_ROWS}")
    return x.shape


def _check_weight(x, weight, bias, transposed) -> int:
    """How many outputs a weight has."""
    inputs = x.shape[1]
    if getattr(weight, "ndim", 0) != 2:
        raise ValueError(f"skinny_matmul: the weight is {getattr(weight, 'shape', weight)} but has to be a matrix")
    outputs = weight.shape[0 if transposed else 1]
    shape = (outputs, inputs) if transposed else (inputs, outputs)
    check_array("skinny_matmul", "weight", weight, like=x, shape=shape, dtype=x.dtype, because=f"x is {x.shape}")
    if bias is not None:
        check_array("skinny_matmul", "bias", bias, like=x, shape=(outputs,), because=f"the weight is {weight.shape}")
    return outputs


def _address(array) -> int:
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
