"""Scaling of rotary embedding: by one factor, by a table, and what a table turns out to be."""

import numpy as np
import pytest

from minillm.errors import UserError
from minillm.layers.rotary import Llama3Scaling, rotary_tables
from minillm.layers.rotary_scaling import LinearScaling, TableScaling, scaling_from_fields, scaling_of_table

THETA = 10000.0 ** (-2 * np.arange(8) / 16)


def test_a_factor_counts_positions_in_larger_steps():
    cos, sin = rotary_tables(9, 16, scaling=LinearScaling(4.0))
    plain_cos, plain_sin = rotary_tables(3, 16)
    np.testing.assert_allclose((cos[::4], sin[::4]), (plain_cos, plain_sin), atol=1e-6)


def test_a_table_divides_each_angle():
    factors = (1.0, 2.0, 4.0, 1.0, 1.0, 1.0, 1.0, 8.0)
    np.testing.assert_array_equal(TableScaling(factors).stretched(THETA), THETA / np.array(factors))


def test_fields_say_which_it_is():
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    assert scaling_from_fields({"factor": 2.0}) == LinearScaling(2.0)
    assert scaling_from_fields({"factors": [1.0, 2.0]}) == TableScaling((1.0, 2.0))
    assert scaling_from_fields(llama3) == Llama3Scaling(**llama3)


def test_what_a_table_is():
    assert scaling_of_table(np.ones(8), THETA) is None
    assert scaling_of_table(np.full(8, 2.5), THETA) == LinearScaling(2.5)
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 100)
    assert scaling_of_table((THETA / scaling.stretched(THETA)).astype(np.float32), THETA) == scaling
    other = Llama3Scaling(8.0, 1.0, 3.0, 100)  # bands that are not the usual ones
    found = scaling_of_table(THETA / other.stretched(THETA), THETA)
    assert isinstance(found, TableScaling)
    np.testing.assert_allclose(found.stretched(THETA), other.stretched(THETA), rtol=1e-6)


@pytest.mark.parametrize("factor", [0, -1.0, float("inf"), float("nan"), True, None, "2", [1.0]])
def test_factors_that_cannot_be_used(factor):
    with pytest.raises(UserError, match="rope_scaling: factor"):
        LinearScaling(factor)
    with pytest.raises(UserError, match="rope_scaling: factor"):
        TableScaling([1.0, factor])
