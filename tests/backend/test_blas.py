"""A product that adds to what is there: the sum of NumPy, for every way in which matrices lie in memory."""

import itertools

import numpy as np
import pytest

from minillm.backend import blas
from minillm.backend.arrays import to_device
from minillm.backend.matmul import matmul
from minillm.backend.threads import blas_threads

needs_openblas = pytest.mark.skipif(blas._gemm("f4") is None, reason="NumPy's BLAS is not the OpenBLAS of its wheels")


def laid(rows, columns, way, dtype, seed):
    """A matrix (rows, columns) of random numbers that lies in memory in one of WAYS."""
    numbers = np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype)
    wide = np.full((2 * rows + 3, 2 * columns + 3), np.nan, dtype)
    views = {
        "rows": lambda: np.empty((rows, columns), dtype),
        "columns": lambda: np.empty((columns, rows), dtype).T,
        "part": lambda: wide[1 : rows + 1, 2 : columns + 2],
        "part of columns": lambda: np.full((columns + 3, rows + 5), np.nan, dtype).T[2 : rows + 2, 1 : columns + 1],
        "every second row": lambda: wide[: 2 * rows : 2, :columns],
        "every second column": lambda: wide[:rows, : 2 * columns : 2],
        "backwards": lambda: np.empty((rows, columns), dtype)[::-1],
        "not aligned": lambda: (
            np.empty(rows * columns * np.dtype(dtype).itemsize + 1, np.int8)[1:].view(dtype).reshape(rows, columns)
        ),
    }
    view = views[way]()
    view[...] = numbers
    return view


WAYS = ["rows", "columns", "part", "part of columns", "every second row", "every second column"]
WAYS += ["backwards", "not aligned"]
READ_BY_BLAS = {"rows", "columns", "part", "part of columns", "every second row"}
SHAPES = [(5, 7, 6), (1, 1, 1), (1, 9, 4), (6, 1, 3), (4, 8, 1), (33, 65, 17)]


@needs_openblas
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_every_order_of_memory(way, dtype):
    """`way` for each of the three in turn, beside every pair of orders of the others."""
    for (n, k, m), others, place in itertools.product(
        SHAPES, itertools.product(["rows", "columns", "part"], repeat=2), range(3)
    ):
        ways = [*others[:place], way, *others[place:]]
        a, b, out = (
            laid(*shape, each, dtype, seed) for seed, (shape, each) in enumerate(zip([(n, k), (k, m), (n, m)], ways))
        )
        around = out.base.copy() if out.base is not None else None
        expected = out + a @ b
        before = out.copy()
        added = blas.add_product(a, b, out)
        if way in READ_BY_BLAS:
            assert added
        if added:
            np.testing.assert_allclose(out, expected, rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-5)
        else:
            np.testing.assert_array_equal(out, before)
        if around is not None and way == "part" and place == 2:  # nothing is written beside the part
            out[...] = before
            np.testing.assert_array_equal(out.base, around)
        np.testing.assert_allclose(matmul(a, b, before, add=True), expected, rtol=1e-5, atol=1e-5)


@needs_openblas
@pytest.mark.parametrize("device", ["cpu", "cudasim"])
def test_layers_add_by_the_product_itself(monkeypatch, device):
    calls, add_product = [], blas.add_product
    monkeypatch.setattr(
        "minillm.backend.matmul.add_product", lambda *arrays: calls.append(add_product(*arrays)) or calls[-1]
    )
    monkeypatch.setattr("minillm.backend.matmul.LARGE", 16)
    a, b, out = (to_device(laid(4, 4, "rows", "float32", seed), device) for seed in range(3))
    expected = np.asarray(out) + np.asarray(a) @ np.asarray(b)
    assert matmul(a, b, out, add=True) is out and calls == [True]
    np.testing.assert_allclose(np.asarray(out), expected, rtol=1e-5)
    matmul(a[:3], b, out[:3], add=True)  # a small result: NumPy's way costs less
    assert calls == [True]


def test_what_is_left_to_numpy():
    """`out` stays as it is, and the caller adds in another way, with the result of NumPy."""
    a, b = laid(4, 4, "rows", "float32", 0), laid(4, 4, "rows", "float32", 1)
    square = laid(4, 4, "rows", "float32", 2)
    for left, right, out in [
        (square, b, square),  # would be read while it is written
        (a, square.T, square),
        (a[:, :0], b[:0], square),
        (a[:0], b, square[:0]),
        (a.astype(np.float64), b, square),
        (a.astype(np.float16), b.astype(np.float16), square.astype(np.float16)),
        (a.astype(">f4"), b.astype(">f4"), square.astype(">f4")),
        (a.astype(np.complex128), b.astype(np.complex128), square.astype(np.complex128)),
        (a[0], b, square[0].copy()),
        (a[None], b[None], square[None].copy()),
        (np.broadcast_to(a[:1], (4, 4)), b, square),
    ]:
        expected, before = out + left @ right, out.copy()
        assert not blas.add_product(left, right, out)
        np.testing.assert_array_equal(out, before)
        np.testing.assert_allclose(matmul(left, right, out, add=True), expected, rtol=1e-3)
        out[...] = before


def test_an_array_that_cannot_be_written():
    out = np.zeros((4, 4), np.float32)
    out.flags.writeable = False
    assert not blas.add_product(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), out)
    with pytest.raises(ValueError, match="read-only"):
        matmul(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), out, add=True)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 5), (4, 5)), ((4, 3), (3, 5), (4, 6)), ((4, 3), (3, 5), (5, 5))])
def test_shapes_that_do_not_fit_are_errors(shapes):
    a, b, out = (np.ones(shape, np.float32) for shape in shapes)
    assert not blas.add_product(a, b, out)
    with pytest.raises(ValueError):
        matmul(a, b, out, add=True)


def test_another_blas(monkeypatch):
    monkeypatch.setattr(blas, "_gemm", lambda kind: None)
    a, b, out = (laid(4, 4, "rows", "float32", seed) for seed in range(3))
    expected = out + a @ b
    assert not blas.add_product(a, b, out)
    np.testing.assert_array_equal(matmul(a, b, out, add=True), expected)


@needs_openblas
def test_not_a_number_is_added_too():
    """beta = 1: what is there counts, also where it is not finite."""
    out = np.array([[np.nan, np.inf]], np.float32)
    assert blas.add_product(np.zeros((1, 3), np.float32), np.zeros((3, 2), np.float32), out)
    assert np.isnan(out[0, 0]) and np.isinf(out[0, 1])


@needs_openblas
def test_the_same_bits_on_any_number_of_threads():
    a, b, out = laid(384, 128, "rows", "float32", 0), laid(128, 512, "rows", "float32", 1), None
    for threads in (1, 2):
        with blas_threads(threads):
            found = laid(384, 512, "rows", "float32", 2)
            blas.add_product(a, b, found)
        out = found if out is None else out
        np.testing.assert_array_equal(found, out)
