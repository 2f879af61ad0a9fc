"""What is asked of cuBLAS on a GPU, without one: see cupy_face.py."""

import numpy as np
import pytest
from cupy_face import Array, install

from minillm.backend import matmul as matmul_module
from minillm.backend.matmul import empty_operand, matmul
from minillm.backend.precision import bfloat16, matmul_precision
from minillm.backend.random_streams import stream


@pytest.fixture
def calls(monkeypatch):
    return install(monkeypatch)


def on_gpu(array):
    return Array(array)


def numbers(name, *shape):
    return stream("cublas", name).normal(shape).astype(np.float32)


STORED = {
    "rows": lambda x: x,
    "columns": np.asfortranarray,
    "a part of wider rows": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("a_stored", STORED)
@pytest.mark.parametrize("b_stored", STORED)
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 4, 9), (6, 1, 2), (2, 8, 1)])
def test_a_product_is_asked_for_as_it_is_meant(shape, a_stored, b_stored, calls):
    n, k, m = shape
    a, b = STORED[a_stored](numbers("a", n, k)), STORED[b_stored](numbers("b", k, m))
    exact = a.astype(np.float64) @ b
    np.testing.assert_allclose(matmul(on_gpu(a), on_gpu(b)).get(), exact, rtol=1e-5, atol=1e-5)
    wide = on_gpu(np.ones((n, m + 5), np.float32))
    matmul(on_gpu(a), on_gpu(b), out=wide[:, :m], add=True)  # into a part of a larger matrix
    wide = wide.get()
    np.testing.assert_allclose(wide[:, :m], exact + 1, rtol=1e-5, atol=1e-5)
    assert (wide[:, m:] == 1).all()
    assert [(call.operands, call.result, call.compute, call.add) for call in calls] == [(0, 0, 68, 0), (0, 0, 68, 1)]


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_goes_in_and_float32_comes_out(transposed, calls):
    x, dy, w = numbers("x", 6, 5).astype(bfloat16()), numbers("dy", 6, 9).astype(bfloat16()), numbers("w", 5, 9)
    w = np.ascontiguousarray(w.T).T if transposed else w
    y = matmul(on_gpu(x), on_gpu(w))  # forward
    dw = matmul(on_gpu(x).T, on_gpu(dy), dtype=np.float32)
    dx = matmul(on_gpu(dy), on_gpu(w).T)
    db = matmul(on_gpu(np.ones(6, np.float32)), on_gpu(dy))
    assert [array.dtype.name for array in (y, dw, dx, db)] == ["bfloat16", "float32", "bfloat16", "float32"]
    assert [(call.operands, call.result, call.compute) for call in calls] == [(14, t, 68) for t in (14, 0, 14, 0)]
    x, dy, w = (array.astype(np.float32) for array in (x, dy, w.astype(bfloat16())))
    y, dw, dx, db = (array.get().astype(np.float32) for array in (y, dw, dx, db))
    np.testing.assert_allclose(dw, x.T @ dy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(db, dy.sum(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, x @ w, rtol=2**-8, atol=1e-3)
    np.testing.assert_allclose(dx, dy @ w.T, rtol=2**-8, atol=1e-3)


def test_tf32_is_a_type_of_the_call_alone(calls):
    a, b = on_gpu(numbers("a", 20, 300)), on_gpu(numbers("b", 300, 7))
    plain = matmul(a, b).get()
    with matmul_precision("tf32"):
        low = matmul(a, b).get()
    np.testing.assert_array_equal(matmul(a, b).get(), plain)
    assert [call.compute for call in calls] == [68, 77, 68]
    assert 1e-4 < np.linalg.norm(low - plain) / np.linalg.norm(plain) < 1e-3


@pytest.mark.parametrize("by_columns", [False, True])
def test_rounded_rows_begin_at_multiples_of_16_bytes(by_columns, calls):
    """A vocabulary of 50,257 words is no multiple of anything."""
    x = numbers("x", 4, 57)
    x = np.asfortranarray(x) if by_columns else x
    one = on_gpu(np.eye(4, dtype=np.float32).astype(bfloat16()))
    np.testing.assert_array_equal(
        matmul(one, on_gpu(x), dtype=np.float32).get(), x.astype(bfloat16()).astype(np.float32)
    )
    assert calls[0].steps[0] % matmul_module.ALIGNED == 0
    rows = empty_operand(4, 57, like=one)
    assert rows.shape == (4, 64) and rows.strides == (128, 2)


def test_nothing_to_sum_up(calls):
    c = on_gpu(np.ones((2, 3), np.float32))
    a, b = on_gpu(np.ones((2, 0), np.float32)), on_gpu(np.ones((0, 3), np.float32))
    assert (matmul(a, b, out=c, add=True) == 1).all() and (matmul(a, b, out=c) == 0).all()
    assert matmul(on_gpu(np.ones((0, 2), np.float32)), on_gpu(np.ones((2, 3), np.float32))).shape == (0, 3)
    assert not calls


def test_cupy_takes_bfloat16_in_all_that_it_is_asked_for():
    """Sums along a residual stream, biases, gradients of positions, copies; and the numbers of its types."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    from cupy._core import _routines_math, _ufuncs
    from cupy._core._dtype import to_cuda_dtype

    letter = bfloat16().char
    assert f"{letter * 2}->{letter}" in cupy.add.types and f"{letter * 2}->{letter}" in cupy.multiply.types
    assert f"{letter}->{letter}" in _ufuncs.elementwise_copy.types
    assert (bfloat16(),) in [operation.out_types for operation in _routines_math._sum_keep_dtype._ops.ops]
    for name, number in matmul_module.CUDA_TYPES.items():
        assert to_cuda_dtype(bfloat16() if name == "bfloat16" else np.dtype(name), True) == number
