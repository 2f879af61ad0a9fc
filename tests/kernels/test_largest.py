"""The id of the largest logit, kernels/largest.cu, and greedy decoding by it."""

import numpy as np
import pytest
from kernel_testing import with_headers

import minillm
from minillm.backend.arrays import to_device, to_host
from minillm.kernels import largest as launcher
from minillm.kernels.largest import THREADS, largest
from minillm.kernels.simulator import SimulatorError, configured
from minillm.sampler.history import History
from minillm.sampler.sampler import InvalidLogits

DEVICES = ["cudasim", pytest.param("cuda", marks=pytest.mark.gpu)]


def logits(width=2 * THREADS + 77):
    x = np.random.default_rng(0).normal(size=(7, width)).astype(np.float32)
    x[1, [5, 900, width - 1]] = 9  # the lowest of equal ones
    x[2] = -np.inf
    x[2, width - 3] = -1e30
    x[3, 600] = np.nan
    x[4, 40] = np.inf
    x[5] = -np.inf
    return x


EXPECTED = [int(logits()[0].argmax()), 5, logits().shape[1] - 3, -1, -1, -1, int(logits()[6].argmax())]


@pytest.mark.parametrize("device", DEVICES)
def test_the_lowest_id_of_the_largest_and_minus_one_where_none_can_be_chosen(device):
    assert to_host(largest(to_device(logits(), device))).tolist() == EXPECTED


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_check_mode_reports_nothing(order):
    with configured(mode="check", order=order, seed=1):
        assert to_host(largest(to_device(logits(), "cudasim"))).tolist() == EXPECTED


@pytest.mark.parametrize("width", [1, 3, THREADS - 1, THREADS])
def test_narrow_rows(width):
    x = np.random.default_rng(width).normal(size=(3, width)).astype(np.float32)
    assert to_host(largest(to_device(x, "cudasim"))).tolist() == x.argmax(axis=1).tolist()


FAULTS = [
    ("return a.id < b.id ? a : b;", "return a.id > b.id ? a : b;", "numbers"),
    (" || a.value != a.value", "", "numbers"),
    ("        __syncthreads();", "", "check"),
    ("fabsf(found[0].value) < infinity()", "found[0].value < infinity()", "numbers"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0].strip())
def test_planted_faults_are_noticed(fault, monkeypatch):
    before, after, by = fault
    text = with_headers(launcher.CUDA)
    assert before in text
    monkeypatch.setattr(launcher, "CUDA", launcher.CUDA.with_text(text.replace(before, after)))
    try:
        with configured(mode="check"):
            assert to_host(largest(to_device(logits(), "cudasim"))).tolist() == EXPECTED
    except SimulatorError:
        assert by == "check"
    except AssertionError:
        assert by == "numbers"
    else:
        pytest.fail("the fault is not noticed")


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_copies_one_number_a_row(device, monkeypatch):
    from minillm.sampler import sampler as module

    copied = []
    monkeypatch.setattr(module, "to_host", lambda array: copied.append(array.shape) or to_host(array))
    x = to_device(logits()[[0, 1, 6]], device)
    sampler = minillm.Sampler(temperature=0, top_k=3)
    assert sampler.sample(x).tolist() == [EXPECTED[0], EXPECTED[1], EXPECTED[6]]
    assert copied == [(3,)] and sampler.step == 1


def test_greedy_with_a_penalty_works_on_the_host():
    x = to_device(logits()[[1]], "cudasim")
    sampler = minillm.Sampler(temperature=0, repetition_penalty=2.0)
    assert sampler.sample(x, History([[5]], [0])).tolist() == [900]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("row", [3, 4, 5])
def test_invalid_logits_are_named_as_on_the_host(row, device):
    with pytest.raises(InvalidLogits) as on_host:
        minillm.Sampler(temperature=0).sample(logits()[[0, row]])
    with pytest.raises(InvalidLogits) as on_device:
        minillm.Sampler(temperature=0).sample(to_device(logits()[[0, row]], device))
    assert str(on_host.value) == str(on_device.value)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"\(B, V\)"):
        largest(to_device(np.zeros(3, np.float32), "cudasim"))
    with pytest.raises(TypeError, match="logits is float64"):
        largest(to_device(np.zeros((1, 3)), "cudasim"))
