"""The MLP of GPT-2: gradients, formula, and the faults that these tests notice."""

import pytest
from planting import assert_close, assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import MLP
from minillm.layers.gelu import gelu_forward

FAULTS = {
    "the first bias gets its gradient twice": (
        "self.c_fc.bias.add_grad(dbias)", "self.c_fc.bias.add_grad(2 * dbias)"),
    "no way back through the GELU": ("self.c_fc.backward(dz)", "self.c_fc.backward(dh)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", MLP.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(MLP, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(MLP, *FAULTS[fault])


@pytest.mark.parametrize("problem", MLP.gradcheck, ids=str)
def test_forward_is_the_formula(problem):
    layer, inputs, _ = MLP.subject(problem)
    a = MLP.make(problem)
    fc_bias, proj_bias = (0 if bias is None else bias for bias in (a.fc_bias, a.proj_bias))
    expected = gelu_forward(a.x @ a.fc + fc_bias)[0] @ a.proj + proj_bias
    assert_close(layer.forward(**inputs), expected)
