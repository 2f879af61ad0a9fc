"""A block of GPT-2: gradients, and the faults that these tests notice."""

import pytest
from planting import assert_gradcheck_catches, assert_gradients

from minillm.checks.cases import RESIDUAL_BLOCK

FAULTS = {
    "no direct path past the MLP": ("dx = dx + self.ln_2.backward(", "dx = self.ln_2.backward("),
    "no direct path past the attention": ("return dx + self.ln_1.backward(", "return self.ln_1.backward("),
    "no dropout on the way back to the MLP": ("self.mlp_resid_dropout.backward(dmlp_out)", "dmlp_out"),
    "no dropout on the way back to the attention": ("self.attn_resid_dropout.backward(dattn_out)", "dattn_out"),
}


@pytest.mark.parametrize("problem", RESIDUAL_BLOCK.gradcheck, ids=str)
def test_gradients(problem):
    assert_gradients(RESIDUAL_BLOCK, problem)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    assert_gradcheck_catches(RESIDUAL_BLOCK, *FAULTS[fault])
