"""The head fused with its loss: gradients, formula, and the faults that these tests notice."""

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32, relative_error
from planting import assert_caught, assert_close, assert_gradients

import minillm
from minillm.backend.arrays import to_device, to_host
from minillm.backend.precision import activation_dtype
from minillm.checks.cases import LINEAR_CROSS_ENTROPY, array
from minillm.layers import linear_cross_entropy
from minillm.layers.cross_entropy import cross_entropy_forward
from minillm.layers.layer import Parameter
from minillm.layers.linear import linear_backward, linear_forward
from minillm.layers.linear_cross_entropy import LinearCrossEntropy, linear_cross_entropy_forward

TARGETS = np.array([[1, 0, 5], [3, -100, 1]])

FAULTS = {
    "only the last chunk counts": ("out=dweight[strip], add=start > 0)", "out=dweight[strip])"),
    "no gradient of x": ("matmul(dlogits, weight, out=dx[chunk])", "dx[chunk] = 0"),
}


@pytest.mark.parametrize("problem", LINEAR_CROSS_ENTROPY.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(LINEAR_CROSS_ENTROPY, problem)


def smallest_chunks(module):
    """The layer of a module, a row of logits at a time."""
    module.CHUNK_LOGITS, module.STRIP_ROWS = dict.fromkeys(module.CHUNK_LOGITS, 1), 4
    return module.LinearCrossEntropy(Parameter(array("w", 6, 4)))


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault, monkeypatch):
    for name in ("CHUNK_LOGITS", "STRIP_ROWS"):
        monkeypatch.setattr(linear_cross_entropy, name, getattr(linear_cross_entropy, name))
    assert_caught(linear_cross_entropy, *FAULTS[fault], smallest_chunks, array("x", 2, 3, 4), TARGETS)


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 6, 100])
@pytest.mark.parametrize("strip_rows", [1, 4, 6, 100])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_forward_is_the_formula(monkeypatch, chunk_rows, strip_rows, label_smoothing):
    monkeypatch.setattr(linear_cross_entropy, "STRIP_ROWS", strip_rows)
    x, weight = array("x", 2, 3, 4), array("w", 6, 4)
    logits, saved = linear_forward(x, weight, transposed=True)
    loss, dlogits = cross_entropy_forward(logits, TARGETS, label_smoothing=label_smoothing)
    dx, dweight, _ = linear_backward(dlogits, saved)

    fused = linear_cross_entropy_forward(x, weight, TARGETS, label_smoothing=label_smoothing, chunk_rows=chunk_rows)
    assert fused[0] == pytest.approx(loss, rel=1e-13)
    assert_close(fused[1][0], dx)
    assert_close(fused[1][1], dweight)


def test_gradient_is_linear_in_dloss():
    layer = LinearCrossEntropy(Parameter(array("w", 6, 4)))
    layer.forward(array("x", 2, 3, 4), TARGETS)
    dx = layer.backward()
    dweight = layer.weight.grad.copy()
    layer.zero_grad()
    layer.forward(array("x", 2, 3, 4), TARGETS)
    assert_close(layer.backward(3.0), 3 * dx)
    assert_close(layer.weight.grad, 3 * dweight)


def test_evaluation_computes_the_loss_only_and_without_smoothing():
    layer = LinearCrossEntropy(Parameter(array("w", 6, 4)), label_smoothing=0.3).eval()
    loss = layer.forward(array("x", 2, 3, 4), TARGETS)
    assert loss == linear_cross_entropy_forward(array("x", 2, 3, 4), array("w", 6, 4), TARGETS)[0]
    assert layer.weight.grad is None
    with pytest.raises(RuntimeError):
        layer.backward()


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(LINEAR_CROSS_ENTROPY)


def test_rows_of_zeros_beyond_the_vocabulary_change_nothing():
    """A weight with rows of zeros, and a gradient with as many rows: the loss and its gradients are those without them."""
    x, weight = array("x", 2, 3, 4), array("w", 6, 4)
    loss, (dx, dweight) = linear_cross_entropy_forward(x, weight, TARGETS, label_smoothing=0.1, chunk_rows=4)
    padded = np.concatenate([weight, np.zeros((2, 4))])
    room = np.full((8, 4), np.nan)  # is written over
    settings = dict(label_smoothing=0.1, chunk_rows=4, dweight=room, vocabulary=6)
    found = linear_cross_entropy_forward(x, padded, TARGETS, **settings)
    assert found[0] == loss and found[1][1] is room
    assert_close(found[1][0], dx)
    assert_close(room, np.concatenate([dweight, np.zeros((2, 4))]))


ROWS, WIDTH, VOCABULARY = 600, 32, 70


def head_on(device, number):
    """x, the layer and the targets on a device, and x and the weight in float64."""
    x, weight = array("x", 2, ROWS // 2, WIDTH).astype(activation_dtype(number)), array("w", VOCABULARY, WIDTH)
    targets = np.arange(ROWS).reshape(2, -1) * 7 % VOCABULARY
    targets[1, -5:] = -100
    layer = LinearCrossEntropy(Parameter(to_device(weight.astype(np.float32), device)), label_smoothing=0.1)
    weight = layer.weight.peek().astype(np.float64)
    return to_device(x, device), layer, to_device(targets, device), x.astype(np.float64), to_host(weight), targets


def plain_low_precision(x, weight, targets, number):
    """Loss and gradients in float64, with the operands of products, the logits and their gradient rounded."""

    def rounded(array):
        return array.astype(number).astype(np.float64)

    logits = rounded(x.reshape(-1, WIDTH) @ rounded(weight).T)
    loss, dlogits = cross_entropy_forward(logits, targets.reshape(-1), label_smoothing=0.1)
    dlogits = rounded(dlogits)
    return loss, rounded(dlogits @ rounded(weight)).reshape(x.shape), dlogits.T @ x.reshape(-1, WIDTH)


@pytest.mark.parametrize("number", ["float32", "bfloat16"])
def test_on_a_device(number, device, monkeypatch):
    """In chunks of 256 rows; errors are at most twice those of the plain computation in low precision."""
    most = 300 * VOCABULARY // (2 if number == "bfloat16" else 1)
    monkeypatch.setattr(linear_cross_entropy, "CHUNK_LOGITS", dict.fromkeys(linear_cross_entropy.CHUNK_LOGITS, most))
    x, layer, targets, *exact = head_on(device, number)
    wanted_loss, (wanted_dx, wanted_dweight) = linear_cross_entropy_forward(*exact, label_smoothing=0.1)
    plain_loss, plain_dx, plain_dweight = plain_low_precision(*exact, activation_dtype(number))
    found = []
    for _ in range(2):  # the second time with memory that is there
        loss, dx = layer.forward(x, targets, count=ROWS - 5), layer.backward()
        grad = layer.weight.grad
        assert grad.shape == (VOCABULARY, WIDTH) and grad.dtype == np.float32 and dx.dtype == x.dtype
        assert abs(float(loss) - wanted_loss) <= 2 * abs(plain_loss - wanted_loss) + 1e-6
        assert relative_error(to_host(dx), wanted_dx) <= 2 * relative_error(plain_dx, wanted_dx) + 1e-6
        assert relative_error(to_host(grad), wanted_dweight) <= 2 * relative_error(plain_dweight, wanted_dweight) + 1e-6
        found.append([to_host(each).tobytes() for each in (dx, grad)])
        layer.zero_grad()
    assert found[0] == found[1]


@pytest.mark.parametrize("number", ["float32", "bfloat16"])
def test_gradients_add_up_on_a_device(number, device):
    x, layer, targets, *_ = head_on(device, number)
    gradients = []
    for _ in range(2):
        layer.forward(x, targets)
        layer.backward()
        gradients.append(to_host(layer.weight.grad).copy())
    np.testing.assert_allclose(gradients[1], 2 * gradients[0], rtol=1e-6)


def test_plain_array_operations_take_logits_in_bfloat16(device):
    x, layer, targets, *exact = head_on(device, "bfloat16")
    minillm.use_kernels(False)
    try:
        loss = float(layer.forward(x, targets, count=ROWS - 5))
        dx = to_host(layer.backward())
    finally:
        minillm.use_kernels(True)
    plain_loss, plain_dx, _ = plain_low_precision(*exact, activation_dtype("bfloat16"))
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert relative_error(dx, plain_dx) < 1e-2


def test_chunks_on_a_device_are_equal_parts():
    """The shapes of GPT-2 at B 16, T 1024: two chunks in bfloat16, four in float32, none left over."""
    rows_of_chunk = linear_cross_entropy.rows_of_chunk
    assert rows_of_chunk(16384, 50257, "cuda", 2) == 8192 and rows_of_chunk(16384, 50257, "cuda", 4) == 4096
    assert rows_of_chunk(16384, 50257, "cpu", 4) == (11 << 20) // 50257
    for rows in (1, 255, 5000, 16384, 65536):
        for vocabulary in (65, 50257, 151936):
            chunk = rows_of_chunk(rows, vocabulary, "cuda", 2)
            chunks = -(-rows // chunk)
            assert chunk % 256 == 0 and chunk * vocabulary <= 1 << 29 and chunks * chunk - rows < 256 * chunks
