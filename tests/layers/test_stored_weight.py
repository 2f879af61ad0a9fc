"""Weights as their file holds them: products and rows against the float32 matrix, in both orientations."""

import mmap
from pathlib import Path

import numpy as np
import pytest

import minillm
from minillm.backend.threads import blas_threads
from minillm.errors import UserError
from minillm.files.number_formats import FORMATS
from minillm.layers import arranged_weight, packed_linear, stored_product
from minillm.layers.cache import Cache
from minillm.layers.linear import Linear
from minillm.layers.packed_linear import packed_linear as linears_side_by_side
from minillm.layers.parameter import Parameter
from minillm.layers.stored_product import blocks_of_rows, stored_products
from minillm.layers.stored_weight import StoredWeight


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored_product, "BLOCK", 1 << 16)


def make(name="F16", rows=701, columns=544):
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
    sizes = {stop - start for start, stop in blocks_of_rows(*weight.shape)}
    assert len(sizes) == 2 and blocks_of_rows(*weight.shape)[-1][1] == 701
    whole = weight.expand()
    monkeypatch.setattr(stored_product, "blocks_of_rows", lambda *sizes: blocks_of_rows(*sizes)[:-1])
    with pytest.raises(AssertionError):
        check(weight.T, whole.T, 8)


@pytest.mark.parametrize("rows, columns", [(1, 32), (3, 96), (33, 64), (50, 1 << 17)])
@pytest.mark.parametrize("name", FORMATS)
def test_small_and_wide_matrices(name, rows, columns):
    weight = make(name, rows, columns)
    check(weight, weight.expand(), 3)
    check(weight.T, weight.expand().T, 1)


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_an_odd_number_of_columns_has_no_words(name):
    weight = make(name, 300, 301)
    check(weight, weight.expand(), 2)
    check(weight.T, weight.expand().T, 2)


@pytest.mark.parametrize("name, function, fault", [
    ("F16", (stored_product, "_restore"), lambda y, number_format: None),
    ("BF16", (stored_product, "_halves_of_inputs"), lambda x, f: np.stack([x[:, 1::2], x[:, ::2]])),
    ("Q8_0", (arranged_weight, "expand_f16"), lambda stored, out: out.fill(0.05)),
    ("Q4_0", (arranged_weight, "inputs_for"), None),
    ("Q4_1", (arranged_weight, "SCALES"), {"Q8_0": 1, "Q4_0": 1, "Q4_1": 1}),
])  # fmt: skip
def test_a_fault_of_the_fast_ways_is_seen(name, function, fault, monkeypatch):
    weight, plain = make(name), arranged_weight.inputs_for
    if name == "Q4_0":  # the lower numbers of a byte are not freed of the upper ones
        fault = lambda x, name: plain(x, name)._replace(x=x.reshape(len(x), -1, 32))  # noqa: E731
        monkeypatch.setattr(stored_product, "inputs_for", fault)
    else:
        monkeypatch.setattr(*function, fault)
    for rows in (1, 8, 40):
        with pytest.raises((AssertionError, ValueError)):
            check(weight.T, weight.expand().T, rows)


def test_large_and_small_inputs_neither_overflow_nor_vanish():
    """The power of two that F16's halves leave out is divided between the inputs and the result."""
    weight = make("F16")
    for size in (1e19, 1e-12):
        x = np.full((1, 544), size, np.float32)
        np.testing.assert_allclose(x @ weight.T, x @ weight.expand().T, rtol=1e-3, atol=size * 1e-3)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wrong", [0x7C00, 0xFC00, 0x7E01, 0x7F80, 0xFFC0], ids=hex)
def test_the_first_number_that_is_not_finite(name, wrong):
    """Found from the bits of 16, or the scales, since F16's formula makes large numbers of them; the largest ones pass."""
    weight = make(name)
    assert weight.first_not_finite() is None
    number_format, stored = weight.format, weight.stored.copy().reshape(701, -1, weight.format.group_bytes)
    largest = 0x7F7F if name == "BF16" else 0x7BFF
    for bits in (largest, wrong):
        if name == "BF16" and bits & 0x7FFF < 0x7F80:
            continue
        for column in (3, 5):
            stored[650, column, -2 if number_format.group == 1 else 0 :][:2] = np.array([bits], "<u2").view(np.uint8)
        found = StoredWeight(stored.reshape(701, -1), number_format).first_not_finite()
        assert found == (None if bits == largest else (650, 3 * number_format.group))


def test_rows_in_another_order():
    """As llama.cpp moves the rows of queries and keys."""
    order = np.random.default_rng(0).permutation(701)
    for name in FORMATS:
        plain = make(name)
        weight = StoredWeight(plain.stored, plain.format, order)
        whole = plain.expand()[order]
        np.testing.assert_array_equal(weight.expand(), whole)
        np.testing.assert_array_equal(weight[[5, 0]], whole[[5, 0]])
        check(weight, whole, 2)
        check(weight.T, whole.T, 1)


@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_layers_that_read_the_same_token(has_bias):
    """Of different formats and orientations, in one product."""
    weights = [make("Q8_0"), make("BF16", 96), make("Q4_1", 544, 320)]
    x, bias = np.random.default_rng(0).standard_normal((1, 1, 544), np.float32), np.ones(96, np.float32)
    layers = [Linear(weights[0], transposed=True), Linear(weights[1], bias if has_bias else None, transposed=True),
              Linear(weights[2])]  # fmt: skip
    kept = Cache(np.zeros(1), 1)
    kept.start(1)
    expected = np.concatenate([layer.decode(x, kept) for layer in layers], axis=-1)
    np.testing.assert_allclose(linears_side_by_side(x, tuple(layers), kept), expected, rtol=1e-6, atol=1e-6)
    joined = stored_products(x, [layer.weight.value.T if layer.transposed else layer.weight.value for layer in layers])
    assert joined.shape == (1, 1, 701 + 96 + 320)


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system cannot be asked to drop pages")
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are read from /proc")
def test_pages_that_were_arranged_are_left(tmp_path):
    """And those of the neighbours are not."""
    plain, rest = make("Q8_0").stored, np.full(10_000, 7, np.uint8)
    path = tmp_path / "w.bin"
    path.write_bytes(rest.tobytes() + plain.tobytes() + rest.tobytes())
    data = np.asarray(np.memmap(path, mode="c"))
    data[5], data[-5] = 9, 9  # private pages
    weight = StoredWeight(data[10_000:-10_000].reshape(plain.shape), FORMATS["Q8_0"])
    expected = weight.expand()
    before = resident(path)
    weight.T.strips()
    assert before >= plain.nbytes and resident(path) < 40_000
    np.testing.assert_array_equal(weight.expand(), expected)
    assert data[5] == data[-5] == 9 and data[6] == data[-6] == 7


def resident(path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    _, _, after = Path("/proc/self/smaps").read_text().partition(str(path))
    return 1024 * int(after.split("Rss:")[1].split()[0])


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
    assert weight.shape == (701, 544) and weight.T.shape == (544, 701) and weight.nbytes == 701 * 544 // 32 * 34


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
