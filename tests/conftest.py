"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# The cores are shared out by pytest -n auto: with threads of their own, the small products of the tests wait for each
# other more than they compute. Both libraries look at it when they are loaded; commands that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch

pytest.register_assert_rewrite("kernel_testing", "planting")

from kernel_testing import needs_compiler  # noqa: E402
from slow_tests import SLOW  # noqa: E402

from minillm.kernels import use_kernels  # noqa: E402
from minillm.kernels.simulator import configured  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the exhaustive tests `slow`, before pytest leaves out what is not asked for."""
    for item in items:
        if SLOW.search(item.nodeid):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def all_kernels_afterwards():
    """What a test, a benchmark or a page turned off is on again for the next one."""
    yield
    use_kernels(True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real texts, vocabularies and models; the test is skipped where it is missing."""
    folder = Path(os.environ.get("MINILLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set MINILLM_TEST_DATA)")
    return folder


@pytest.fixture
def simulator():
    """Skips the test where kernels cannot be simulated."""
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
