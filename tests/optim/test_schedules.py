import math

import pytest

from minillm.errors import UserError
from minillm.optim import make_schedule


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_warm_up_rises_linearly_to_lr(name):
    schedule = make_schedule(name, lr=1.0, max_steps=100, warmup_steps=9, min_lr=0.1)
    assert [schedule(step) for step in range(10)] == pytest.approx([0.1 * (step + 1) for step in range(10)])


def test_values():
    cosine = make_schedule("cosine", lr=1.0, max_steps=110, warmup_steps=10, min_lr=0.1)
    assert [cosine(step) for step in (10, 60, 110, 500)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert cosine(35) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    linear = make_schedule("linear", lr=1.0, max_steps=110, warmup_steps=10, min_lr=0.1)
    assert [linear(step) for step in (10, 35, 60, 110, 500)] == pytest.approx([1.0, 0.775, 0.55, 0.1, 0.1])
    constant = make_schedule("constant", lr=0.3, max_steps=10)
    assert [constant(step) for step in (0, 5, 500)] == [0.3, 0.3, 0.3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("step", 1.0, 10), 'unknown schedule "step": use one of cosine'),
        (("cosine", 0.0, 10), "learning rate is 0.0"),
        (("cosine", math.inf, 10), "learning rate is inf"),
        (("cosine", 1.0, 10, 0, 2.0), "last learning rate is 2.0"),
        (("cosine", 1.0, 0), "0 steps in all"),
    ],
)
def test_impossible_settings(arguments, message):
    with pytest.raises(UserError, match=message):
        make_schedule(*arguments)
