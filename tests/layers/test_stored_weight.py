"""Weights as their file holds them: products and rows against the float32 matrix, in both orientations."""

import numpy as np
import pytest

import minillm
from minillm.backend.threads import blas_threads
from minillm.errors import UserError
from minillm.files.number_formats import FORMATS
from minillm.layers import packed_linear, stored_weight
from minillm.layers.cache import Cache
from minillm.layers.linear import Linear
from minillm.layers.parameter import Parameter
from minillm.layers.stored_weight import StoredWeight


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored_weight, "BLOCK", 1 << 16)


def make(name="F16", rows=700, columns=544):
    """A weight of several blocks, the last of them smaller, and columns that are no multiple of a thread's share."""
    rng, number_format = np.random.default_rng(5), FORMATS[name]
    stored = rng.integers(0, 256, (rows, columns // number_format.group, number_format.group_bytes), np.uint8)
    if number_format.group == 1:
        numbers = rng.standard_normal((rows, columns)).astype(np.float32)
        bits = numbers.astype("<f2").view("<u2") if name == "F16" else (numbers.view("<u4") >> 16).astype("<u2")
        stored = bits.view(np.uint8).reshape(rows, -1)
    else:
        scales = number_format.group_bytes % 16  # bytes: 2, or 4
        stored[..., :scales] = rng.uniform(0.01, 0.1, (*stored.shape[:2], scales // 2)).astype("<f2").view(np.uint8)
    return StoredWeight(stored.reshape(rows, -1), number_format)


def check(weight, w, rows, tolerance=1e-6):
    x = np.random.default_rng(rows).standard_normal((rows, w.shape[0])).astype(np.float32)
    y, expected = x @ weight, x.astype(np.float64) @ w.astype(np.float64)
    assert y.dtype == np.float32
    size = np.abs(x).astype(np.float64) @ np.abs(w)
    assert (np.abs(y - expected) <= tolerance * size).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 8, 40], ids=["one token", "batch of 8", "prompt"])
def test_products_are_those_of_the_expanded_matrix(name, rows):
    weight = make(name)
    whole = np.stack([weight[i] for i in range(len(weight))])
    np.testing.assert_array_equal(weight.expand(), whole)
    check(weight, whole, rows)  # (I, O)
    check(weight.T, whole.T, rows)  # (O, I)


def test_the_last_partial_block_counts(monkeypatch):
    """The fault is planted: each list of blocks without its last one."""
    weight = make()
    assert weight.blocks_of_rows(stored_weight.BLOCK)[-1][1] == 700
    whole, blocks = weight.expand(), StoredWeight.blocks_of_rows
    monkeypatch.setattr(StoredWeight, "blocks_of_rows", lambda self, numbers: blocks(self, numbers)[:-1])
    with pytest.raises(AssertionError):
        check(weight.T, whole.T, 8)


def test_bits_do_not_depend_on_the_threads():
    weight, rng = make(), np.random.default_rng(0)
    for w in (weight, weight.T):
        x = rng.standard_normal((8, w.shape[0])).astype(np.float32)
        found = []
        for threads in (1, 2):
            with blas_threads(threads):
                found.append(x @ w)
        np.testing.assert_array_equal(*found)


def test_rows_as_an_embedding_reads_them():
    weight, ids = make("Q8_0"), np.array([[3, 699, 3], [0, 1, 350]])
    np.testing.assert_array_equal(weight[ids], weight.expand()[ids])
    np.testing.assert_array_equal(weight[2:5], weight.expand()[2:5])
    assert weight.shape == (700, 544) and weight.T.shape == (544, 700) and weight.nbytes == 700 * 544 // 32 * 34


def test_only_products_are_computed():
    weight = make()
    for wrong in (
        lambda: weight * 1.0,
        lambda: np.add(np.ones(544, np.float32), weight),
        lambda: weight @ np.ones(544),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="cannot be multiplied"):
        np.ones((2, 5), np.float32) @ weight
    with pytest.raises(UserError, match="are not rows of Q8_0"):
        StoredWeight(np.zeros((2, 33), np.uint8), FORMATS["Q8_0"])


@pytest.mark.parametrize("transposed", [False, True])
def test_a_linear_layer_over_it_gives_dx_and_no_gradient(transposed):
    parameter = Parameter(make())
    parameter.frozen = True
    layer, plain = Linear(parameter, transposed=transposed), Linear(make().expand(), transposed=transposed)
    inputs, outputs = parameter.value.shape[:: -1 if transposed else 1]
    rng = np.random.default_rng(1)
    x, dy = (
        rng.standard_normal((2, 3, inputs)).astype(np.float32),
        rng.standard_normal((2, 3, outputs)).astype(np.float32),
    )
    np.testing.assert_allclose(layer.forward(x), plain.forward(x), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(layer.backward(dy), plain.backward(dy), rtol=1e-5, atol=1e-4)
    assert parameter.grad is None
    with pytest.raises(UserError, match="cannot learn"):
        minillm.AdamW({"weight": parameter}, lr=1e-3)


@pytest.mark.parametrize("transposed", [False, True])
def test_it_is_not_copied_for_one_token(monkeypatch, transposed):
    """layers/packed_linear.py copies float32 weights of this shape, in both orientations."""
    monkeypatch.setattr(packed_linear, "LARGE", 1 << 16)
    weight = make("Q8_0")
    layers = [Linear(each, transposed=transposed) for each in (weight, weight.expand())]
    kept, x = Cache(np.zeros(1), 1), np.ones((1, 1, layers[0].weight.value.shape[transposed]), np.float32)
    kept.start(1)
    stored, copied = (layer.decode(x, kept) for layer in layers)
    assert kept.packed(layers[0]) is None and kept.packed(layers[1]) is not None
    np.testing.assert_allclose(stored, copied, rtol=1e-4, atol=1e-4)
