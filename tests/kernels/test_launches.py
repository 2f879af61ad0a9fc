"""What a training step asks of a GPU: launches, the bytes of CuPy's own passes, waits, and the host's work for it.

The stand-in counts them, and computes nothing meanwhile: `python -m minillm.kernels.standin -m benchmarks.launches`
prints the whole table.
"""

import cProfile
from pathlib import Path
from typing import NamedTuple

import pytest
from gpu_testing import on_the_standin

from benchmarks.launches import Training, config_of, own_passes, show_kernels, since
from minillm.kernels.standin.recording import counts, recorded

pytestmark = pytest.mark.gpu

BATCH_SIZE, CONTEXT, WARM_UP = 16, 1024, 2


class Step(NamedTuple):
    """What one step in bfloat16 asks for."""

    launches: int  # kernels, products and sorts
    megabytes: float  # that CuPy's own kernels read and write
    calls: int  # of functions in Python, by the host; cProfile counts them


# Counted in the same way before the passes between the products were fused: each weight was rounded for each product,
# q, k, v and y were copied for attention, biases and residuals added by CuPy, and dtypes compared by their names.
BEFORE = {"gpt2": Step(829, 17_379, 47_935), "llama": Step(867, 13_711, 50_457)}
MOST_LAUNCHES = {"gpt2": 450, "llama": 550}


@pytest.fixture(scope="module", params=sorted(BEFORE))
def step(request):
    """The name of a model of 124 M weights, a step of its training, and what else it asked for."""
    if not on_the_standin():
        pytest.skip("launches are counted on the stand-in: pytest -m gpu --standin")
    with recorded(compute=False):
        training = Training(config_of(request.param, CONTEXT), BATCH_SIZE, "bfloat16")
        for _ in range(WARM_UP):
            training.step()
        with cProfile.Profile() as profile:
            training.step()
        before = counts()
        with recorded(compute=False) as calls:
            training.step()
        asked = since(before)
    show_kernels(calls)  # pytest prints it where a test fails
    return request.param, Step(len(calls), own_passes(calls).bytes / 1e6, calls_of_python(profile)), asked


def calls_of_python(profile) -> int:
    """Calls of functions written in Python, but for those of the stand-in."""
    entries = [entry for entry in profile.getstats() if not isinstance(entry.code, str)]  # str: a function in C
    return sum(entry.callcount for entry in entries if "standin" not in Path(entry.code.co_filename).parts)


def test_launches(step):
    model, found, _ = step
    assert found.launches <= MOST_LAUNCHES[model]


def test_bytes_of_passes_between_the_products(step):
    model, found, _ = step
    assert found.megabytes <= BEFORE[model].megabytes / 3


def test_the_host_waits_for_nothing_and_allocates_nothing(step):
    _, _, asked = step
    assert {name: asked[name] for name in ("waits", "allocations", "to_host")} == dict.fromkeys(
        ("waits", "allocations", "to_host"), 0
    )


def test_calls_of_functions(step):
    """The host's time goes into them; a time itself would be another on each machine."""
    model, found, _ = step
    assert found.calls <= 0.7 * BEFORE[model].calls
