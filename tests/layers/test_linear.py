"""Linear: gradients, formula, and the faults that these tests notice. The products are the BLAS's, or cuBLAS's."""

import numpy as np
import pytest
from kernel_testing import assert_numpy_agrees_in_float32
from planting import assert_close, assert_gradcheck_catches, assert_gradients

import minillm
from minillm.checks.cases import LINEAR, array
from minillm.layers.linear import Linear, linear_forward

FAULTS = {
    "dx is half of what it should be": ("dx = matmul(dy_rows, w.T,", "dx = matmul(dy_rows, w.T * 0.5,"),
    "dweight is a mean in place of a sum": (
        "dweight = matmul(rows.T, dy_rows,", "dweight = matmul(rows.T, dy_rows / len(rows),"),
    "dbias is a mean in place of a sum": (
        "dbias = sum_over_rows(dy_rows)", "dbias = sum_over_rows(dy_rows / len(dy_rows))"),
    "transposed: dweight is twice what it should be": (
        "dweight = matmul(dy_rows.T, rows,", "dweight = matmul(dy_rows.T, rows * 2,"),
}  # fmt: skip


@pytest.mark.parametrize("problem", LINEAR.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(LINEAR, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(LINEAR, *FAULTS[fault])


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2, 3, 4), (1, 2, 3, 4)])
def test_forward_is_the_formula(shape):
    x, w, b = array("x", *shape), array("w", shape[-1], 5), array("b", 5)
    expected = np.empty((*shape[:-1], 5))
    for position in np.ndindex(*shape[:-1]):
        for j in range(5):
            expected[(*position, j)] = sum(x[(*position, i)] * w[i, j] for i in range(shape[-1])) + b[j]
    assert_close(linear_forward(x, w, b)[0], expected)
    assert_close(linear_forward(x, np.ascontiguousarray(w.T), b, transposed=True)[0], expected)


def test_input_that_is_not_contiguous():
    x = array("x", 4, 3, 2).transpose(1, 0, 2)
    assert_close(linear_forward(x, array("w", 2, 5))[0], x @ array("w", 2, 5))


class TestOrderOfCalls:
    def test_backward_before_forward(self):
        with pytest.raises(RuntimeError, match="Linear: backward has nothing to work from: call forward first"):
            Linear(array("w", 4, 5)).backward(array("dy", 2, 5))

    def test_backward_twice(self):
        layer = Linear(array("w", 4, 5))
        layer.forward(array("x", 2, 4))
        layer.backward(array("dy", 2, 5))
        with pytest.raises(RuntimeError, match="once for each forward"):
            layer.backward(array("dy", 2, 5))

    def test_backward_in_evaluation_mode(self):
        layer = Linear(array("w", 4, 5)).eval()
        layer.forward(array("x", 2, 4))
        with pytest.raises(RuntimeError, match=r"call train\(\) first"):
            layer.backward(array("dy", 2, 5))

    def test_gradients_add_up_until_zero_grad(self):
        layer, x, dy = Linear(array("w", 4, 5)), array("x", 2, 4), array("dy", 2, 5)
        layer.forward(x)
        layer.backward(dy)
        once = layer.weight.grad.copy()
        layer.forward(x)
        layer.backward(dy)
        assert_close(layer.weight.grad, 2 * once)
        layer.zero_grad()
        assert layer.weight.grad is None


def test_gradient_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"gradient of shape \(5, 4\) for a parameter of shape \(4, 5\)"):
        Linear(array("w", 4, 5)).weight.add_grad(array("g", 5, 4))


def test_numpy_agrees_in_float32():
    assert_numpy_agrees_in_float32(LINEAR)


class Scaled(minillm.Layer):
    """y = s inner(x): a layer of a user's in the place of a Linear, with the two methods of the contract alone."""

    def __init__(self, inner):
        self.inner, self.s = inner, minillm.Parameter(np.ones(1, np.float32))

    def forward(self, x):
        y = self.inner.forward(x)
        self.save_for_backward(y)
        return y * self.s.value

    def backward(self, dy):
        y = self.take_saved()
        self.s.add_grad((dy * y).sum().reshape(1))
        return self.inner.backward(dy * self.s.value)


SHAPE = dict(vocab_size=11, context_length=6, n_layer=1, n_head=2, d_model=8)
PROJECTIONS = {
    "transformer.h.0": (lambda: minillm.GPT2(minillm.GPT2Config(**SHAPE), seed=1), ("attn.c_proj", "mlp.c_proj")),
    "model.layers.0": (
        lambda: minillm.Llama(minillm.LlamaConfig(**SHAPE), seed=1),
        ("self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ),
}


def a_step(model):
    ids = np.arange(12).reshape(2, 6) % 11
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    model.backward()
    return float(loss), {name: parameter.grad for name, parameter in model.parameters().items()}


@pytest.mark.parametrize("block, name", [(block, name) for block, (_, names) in PROJECTIONS.items() for name in names])
@pytest.mark.parametrize("how", ["a layer", "a subclass", "a hook"])
def test_a_projection_of_ones_own_needs_forward_of_x_and_backward_of_dy(block, name, how):
    model = PROJECTIONS[block][0]()
    expected_loss, expected = a_step(PROJECTIONS[block][0]())
    owner, _, attribute = f"{block}.{name}".rpartition(".")
    owner = dict(model.layers())[owner]
    linear = getattr(owner, attribute)
    if how == "a layer":
        setattr(owner, attribute, Scaled(linear))
    elif how == "a subclass":
        linear.__class__ = type(
            "Own",
            (Linear,),
            {
                "forward": lambda self, x: Linear.forward(self, x),
                "backward": lambda self, dy: Linear.backward(self, dy),
            },
        )
    else:
        linear.backward = lambda dy: Linear.backward(linear, dy)
    loss, found = a_step(model)
    found = {name.replace(".inner", ""): grad for name, grad in found.items()}
    assert loss == expected_loss
    for name, grad in expected.items():
        np.testing.assert_allclose(found[name], grad, rtol=1e-5, atol=1e-8)
