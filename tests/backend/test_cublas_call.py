"""Products on a GPU: what is asked of cuBLAS, and what comes back."""

import numpy as np
import pytest
from gpu_testing import products_asked_for
from kernel_testing import relative_error

from minillm.backend import matmul as matmul_module
from minillm.backend.arrays import to_device
from minillm.backend.matmul import empty_operand, matmul
from minillm.backend.precision import bfloat16, matmul_precision
from minillm.backend.random_streams import stream

pytestmark = pytest.mark.gpu


@pytest.fixture
def asked():
    """Compares the products asked for with rows of (operands, result, compute, whether the result is added to)."""
    with products_asked_for() as products:

        def compare(*expected):
            found = products()
            if found is not None:
                assert [(p.operands, p.result, p.compute, p.added) for p in found] == list(expected)

        yield compare


def numbers(name, *shape):
    return stream("cublas", name).normal(shape).astype(np.float32)


def on_gpu(array):
    """The array on the GPU with the steps that it has."""
    import cupy

    memory = cupy.asarray(array if array.base is None else array.base)
    return cupy.ndarray(array.shape, array.dtype, memory.data, array.strides) if array.base is not None else memory


STORED = {
    "rows": lambda x: x,
    "columns": np.asfortranarray,
    "a part of wider rows": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("a_stored", STORED)
@pytest.mark.parametrize("b_stored", STORED)
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 4, 9), (6, 1, 2), (2, 8, 1)])
def test_a_product_is_asked_for_as_it_is_meant(shape, a_stored, b_stored, asked):
    n, k, m = shape
    a, b = STORED[a_stored](numbers("a", n, k)), STORED[b_stored](numbers("b", k, m))
    exact = a.astype(np.float64) @ b
    left, right = on_gpu(a), on_gpu(b)
    assert left.strides == a.strides and right.strides == b.strides
    np.testing.assert_allclose(matmul(left, right).get(), exact, rtol=1e-5, atol=1e-5)
    wide = to_device(np.ones((n, m + 5), np.float32), "cuda")
    matmul(left, right, out=wide[:, :m], add=True)  # into a part of a larger matrix
    wide = wide.get()
    np.testing.assert_allclose(wide[:, :m], exact + 1, rtol=1e-5, atol=1e-5)
    assert (wide[:, m:] == 1).all()
    asked(*(("float32", "float32", "float32", added) for added in (False, True)))


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_goes_in_and_float32_comes_out(transposed, asked):
    x, dy, w = numbers("x", 6, 5).astype(bfloat16()), numbers("dy", 6, 9).astype(bfloat16()), numbers("w", 5, 9)
    w = np.asfortranarray(w) if transposed else w
    y = matmul(on_gpu(x), on_gpu(w))  # forward
    dw = matmul(on_gpu(x).T, on_gpu(dy), dtype=np.float32)
    dx = matmul(on_gpu(dy), on_gpu(w).T)
    db = matmul(on_gpu(np.ones(6, np.float32)), on_gpu(dy))
    assert [array.dtype.name for array in (y, dw, dx, db)] == ["bfloat16", "float32", "bfloat16", "float32"]
    asked(*(("bfloat16", result, "float32", False) for result in ("bfloat16", "float32", "bfloat16", "float32")))
    x, dy, w = (array.astype(np.float32) for array in (x, dy, w.astype(bfloat16())))
    y, dw, dx, db = (array.get().astype(np.float32) for array in (y, dw, dx, db))
    np.testing.assert_allclose(dw, x.T @ dy, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(db, dy.sum(axis=0), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(y, x @ w, rtol=2**-8, atol=1e-3)
    np.testing.assert_allclose(dx, dy @ w.T, rtol=2**-8, atol=1e-3)


def test_tf32_is_a_type_of_the_call_alone(asked):
    """Rows are multiples of 16 bytes long, so that cuBLAS has kernels for tensor cores.

    Rounding to 10 bits gives an error of 3e-4. Hardware that cuts the operands off in place of rounding them gives 7e-4.
    """
    a, b = on_gpu(numbers("a", 128, 512)), on_gpu(numbers("b", 512, 128))
    plain = matmul(a, b).get()
    with matmul_precision("tf32"):
        low = matmul(a, b).get()
    np.testing.assert_array_equal(matmul(a, b).get(), plain)
    asked(*(("float32", "float32", compute, False) for compute in ("float32", "tf32", "float32")))
    assert 1e-4 < relative_error(low, plain) < 1e-3


@pytest.mark.parametrize("by_columns", [False, True])
def test_rounded_rows_begin_at_multiples_of_16_bytes(by_columns):
    """A vocabulary of 50,257 words is no multiple of anything."""
    x = numbers("x", 4, 57)
    x = np.asfortranarray(x) if by_columns else x
    one = on_gpu(np.eye(4, dtype=np.float32).astype(bfloat16()))
    with products_asked_for() as products:
        found = matmul(one, on_gpu(x), dtype=np.float32).get()
        np.testing.assert_array_equal(found, x.astype(bfloat16()).astype(np.float32))
        assert products() is None or products()[0].steps[0] % matmul_module.ALIGNED == 0
    rows = empty_operand(4, 57, like=one)
    assert rows.shape == (4, 64) and rows.strides == (128, 2)


def test_nothing_to_sum_up(asked):
    c = on_gpu(np.ones((2, 3), np.float32))
    a, b = on_gpu(np.ones((2, 0), np.float32)), on_gpu(np.ones((0, 3), np.float32))
    assert (matmul(a, b, out=c, add=True) == 1).all() and (matmul(a, b, out=c) == 0).all()
    assert matmul(on_gpu(np.ones((0, 2), np.float32)), on_gpu(np.ones((2, 3), np.float32))).shape == (0, 3)
    asked()


def test_cupy_takes_bfloat16_in_all_that_it_is_asked_for():
    """Sums along a residual stream, scales, gradients of positions, copies; and the numbers of its types."""
    from cupy._core._dtype import to_cuda_dtype

    x, y = (numbers(name, 5, 24).astype(bfloat16()) for name in "xy")
    a, b = on_gpu(x), on_gpu(y)
    for found, expected in ((a + b, x + y), (a * b, x * y), (a.T.copy(), x.T), (a[:, ::3], x[:, ::3])):
        assert found.dtype == bfloat16()
        np.testing.assert_array_equal(found.get(), expected)
    np.testing.assert_allclose(
        a.sum(axis=0, dtype="float32").get(), x.astype(np.float32).sum(axis=0), rtol=1e-6, atol=1e-6
    )
    for name, number in matmul_module.CUDA_TYPES.items():
        assert to_cuda_dtype(bfloat16() if name == "bfloat16" else np.dtype(name), True) == number
