"""On what a run trains: numbers that make no sense are refused, by name."""

import pytest

from minillm.distributed.machine import Machine
from minillm.errors import UserError


def test_by_default_the_machine_decides():
    machine = Machine()
    assert (machine.processes, machine.threads, machine.zero, machine.tensor_parallel) == (0, 0, 1, 1)
    assert machine.deadline == 0


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_all_stages(zero):
    assert Machine(processes=4, threads=2, zero=zero, deadline=0.5).zero == zero


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(processes=-1), "processes is -1: it must be a whole number of at least 0"),
        (dict(processes=True), "processes is True"),
        (dict(processes=1.5), "processes is 1.5"),
        (dict(threads=-2), "threads is -2: it must be a whole number of at least 0"),
        (dict(zero=0), "zero is 0: it must be a whole number of at least 1"),
        (dict(zero=4), "--zero is 4: it must be 1, 2 or 3"),
        (dict(tensor_parallel=0), "tensor_parallel is 0: it must be a whole number of at least 1"),
        (dict(deadline=-1.0), "--deadline is -1.0: it must be a number of seconds"),
        (dict(deadline=float("nan")), "--deadline is nan"),
    ],
)
def test_numbers_that_make_no_sense(settings, message):
    with pytest.raises(UserError) as refused:
        Machine(**settings)
    assert str(refused.value).startswith(message)
