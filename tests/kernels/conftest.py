"""Devices for the tests of kernels."""

import pytest
from kernel_testing import needs_compiler

from minillm.kernels.simulator import configured


@pytest.fixture
def simulator():
    needs_compiler()


@pytest.fixture(
    params=["ascending", "descending", "shuffled", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def device(request):
    """The device on which the kernels run; on the simulator in one of three thread orders."""
    if request.param == "cuda":
        cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
        if not cupy.cuda.is_available():
            pytest.skip("no NVIDIA GPU: cupy.cuda.is_available() is false")
        yield "cuda"
        return
    needs_compiler()
    with configured(order=request.param, seed=11):
        yield "cudasim"
