import numpy as np
import pytest
from planting import assert_close, planted

import minillm
from minillm.backend import skinny_matmul as module
from minillm.backend.arrays import SimulatedArray
from minillm.backend.random_streams import stream
from minillm.backend.skinny_matmul import BLOCK, MOST_ROWS, skinny_gains, skinny_matmul
from minillm.backend.threads import blas_threads
from minillm.checks.cases import randomised
from minillm.generation.decoder import Decoder
from minillm.layers import linear
from minillm.layers.cache import Cache
from minillm.layers.linear import Linear


def matrices(rows, outputs, inputs):
    draw = stream("few rows", rows, outputs, inputs)
    return draw.normal((rows, inputs)).astype(np.float32), draw.normal((outputs, inputs)).astype(np.float32)


def assert_multiplies(rows, outputs, inputs, module=module):
    x, weight = matrices(rows, outputs, inputs)
    for y in (
        module.skinny_matmul(x, weight, True),
        module.skinny_matmul(x, np.ascontiguousarray(weight.T), False),
    ):
        assert_right(y, x, weight)


def assert_right(y, x, weight):
    assert y.flags.c_contiguous and y.dtype == np.float32
    rounding = np.finfo(np.float32).eps * max(x.shape[1], 64) ** 0.5  # of a sum of so many terms
    assert_close(y, x.astype(np.float64) @ weight.T.astype(np.float64), rounding)


SHAPES = [(2, 1000, 300), (5, 4097, 64), (MOST_ROWS, 437, 600), (3, 1, 7), (3, 5, 2 * BLOCK), (2, 2 * BLOCK, 5)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product(shape, threads):
    with blas_threads(threads):
        assert_multiplies(*shape)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("sums += x[:, whole:] @ strips[:, whole:]", "pass"),
        ("np.add.reduce(products, axis=1)", "products[:, -1]"),
        ("places = y[:, first:last]", "places = y[:, start : start + last - first]"),
        ("strips = weight[:, first:last]", "strips = weight[:, start : start + last - first]"),
        ("(each[first:last].reshape", "(each[start : start + last - first].reshape"),
        ("submit(multiply, x, weight, y, *part)", "submit(multiply, x, weight, y, *first)"),
        ("// rows * rows\n", "// rows * rows + rows\n"),
    ],
)
def test_faults_are_caught(right, wrong):
    with blas_threads(2), pytest.raises((AssertionError, ValueError)):
        for shape in SHAPES:
            assert_multiplies(*shape, planted(module, right, wrong))


def test_the_number_of_threads_changes_no_bit():
    x, weight = matrices(4, 3001, 200)
    for transposed in (True, False):
        results = []
        for threads in (1, 2, 3):
            with blas_threads(threads):
                results.append(skinny_matmul(x, weight if transposed else weight.T.copy(), transposed))
        assert (results[0] == results[1]).all() and (results[0] == results[2]).all()


def test_where_it_is_used(monkeypatch):
    monkeypatch.setattr(module, "_has_small_products", lambda: True)
    x, weight = matrices(4, 1024, 256)
    assert skinny_gains(x, weight)
    assert not skinny_gains(x[:1], weight) and not skinny_gains(np.repeat(x, 4, axis=0), weight)
    assert not skinny_gains(x, weight[:1000])  # small enough for the cache as it is
    assert not skinny_gains(x, weight.astype(np.float64))
    assert not skinny_gains(x, weight.view(SimulatedArray))
    monkeypatch.setattr(module, "_has_small_products", lambda: False)
    assert not skinny_gains(x, weight)


@pytest.mark.parametrize("transposed", [True, False])
def test_a_linear_layer_uses_it(monkeypatch, transposed):
    calls = []
    monkeypatch.setattr(module, "_has_small_products", lambda: True)
    monkeypatch.setattr(linear, "skinny_matmul", lambda *all: calls.append(all) or skinny_matmul(*all))
    x, weight = matrices(4, 512, 512)
    layer = Linear(weight, np.ones(512, np.float32), transposed=transposed)
    assert_close(layer.decode(x, Cache(x, len(x))), x @ (weight.T if transposed else weight) + 1, 1e-6)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", [minillm.GPT2, minillm.Llama])
def test_a_model_reads_several_tokens_with_it(monkeypatch, kind):
    monkeypatch.setattr(module, "_has_small_products", lambda: True)
    for name, few in (("LEAST", 1024), ("BLOCK", 256), ("INPUTS", 16), ("ALIGNED", 16)):
        monkeypatch.setattr(module, name, few)
    config = minillm.GPT2Config if kind is minillm.GPT2 else minillm.LlamaConfig
    fields = dict(vocab_size=50, context_length=12, n_layer=2, n_head=2, d_model=32)
    model = randomised(kind(config(**fields), seed=0), 0.3).eval()
    ids = stream("few rows").integers(50, (1, 9))
    decoder = Decoder(model)
    x = np.concatenate([decoder.hidden(ids[:, :4]), decoder.hidden(ids[:, 4:])], axis=1)
    assert_close(decoder.logits(x[0]), model.forward(ids)[0], 1e-5)
