import pytest
from planting import assert_caught, planted

from minillm.checks.cases import CATALOGUE, array
from minillm.checks.gradcheck import GradientError, gradcheck
from minillm.layers import mlp, residual
from minillm.layers.linear import Linear
from minillm.models import gpt2


@pytest.mark.parametrize("wrong", ["return dy, 2 * dy", "return 0 * dy, dy"])  # the branch, the direct path
def test_faults_are_caught(wrong):
    inputs = array("x", 2, 3), array("branch", 2, 3)
    assert_caught(residual, "return dy, dy", wrong, lambda m: (m.residual_forward, m.residual_backward), *inputs)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dx = dx + self.ln_2.backward(", "dx = self.ln_2.backward("),
        ("return dx + self.ln_1.backward(", "return self.ln_1.backward("),
        ("self.mlp_resid_dropout.backward(dmlp_out)", "dmlp_out"),
        ("self.attn_resid_dropout.backward(dattn_out)", "dattn_out"),
    ],
)
def test_faults_in_the_block_are_caught(right, wrong):
    (_, block, inputs, key) = [case for case in CATALOGUE["residual"]() if case[0] == "residual block"][0]
    gradcheck(block, *inputs, rng_key=key)
    block.__class__ = planted(gpt2, right, wrong).ResidualBlock
    with pytest.raises(GradientError):
        gradcheck(block, *inputs, rng_key=key)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("self.c_fc.bias.add_grad(dbias)", "self.c_fc.bias.add_grad(2 * dbias)"),
        ("self.c_fc.backward(dz)", "self.c_fc.backward(dh)"),
    ],
)
def test_faults_in_the_mlp_are_caught(right, wrong):
    def layer(module):
        return module.MLP(Linear(array("fc", 4, 8), array("fc_b", 8)), Linear(array("proj", 8, 4)))

    assert_caught(mlp, right, wrong, layer, array("x", 2, 3, 4))
