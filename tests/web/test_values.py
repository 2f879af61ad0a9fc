"""The numbers beside the lines: what the tracer sees, and that it is what the operation computes."""

from __future__ import annotations

import numpy as np
import pytest

from minillm.web.read.operation import OPERATIONS
from minillm.web.read.values import observe


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_function_is_observed(name):
    """Each function of a page has numbers, and none of them is NaN: no memory is shown that nothing has written."""
    operation = OPERATIONS[name]
    seen = observe(operation)
    functions = {each.function for each in seen}
    wanted = {part for pair in operation.pairs for part in (pair.forward, pair.backward) if part}
    assert wanted <= functions
    assert not [each for each in seen if each.norm is not None and not np.isfinite(each.norm)]
    assert not [each for each in seen if np.isnan(each.values).any()]
