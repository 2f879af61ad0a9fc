"""Fixtures shared by all tests."""

import os
import re
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

# The cores are shared out by pytest -n auto: with threads of their own, the small products of the tests wait for each
# other more than they compute. Both libraries look at it when they are loaded; commands that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch

# Doctest looks into every file: one needs torch, and what imports the other has started MPI, and cannot be forked.
collect_ignore = ["imitated_nccl.py", *([] if find_spec("torch") else ["torch_twins.py"])]

TESTS = Path(__file__).parent

pytest.register_assert_rewrite("kernel_testing", "planting")

from kernel_testing import needs_compiler, why_no_gpu  # noqa: E402
from slow_tests import SLOW, may_have_slow_tests  # noqa: E402

from minillm.distributed import processes  # noqa: E402
from minillm.errors import UserError  # noqa: E402
from minillm.kernels import use_kernels  # noqa: E402
from minillm.kernels.simulator import configured  # noqa: E402
from minillm.kernels.standin.attach import attach, forget_errors  # noqa: E402
from minillm.kernels.standin.computing import carry_out_everything  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--standin", action="store_true", help="run the tests marked gpu on the stand-in for a GPU")


def pytest_configure(config):
    """With --standin, CuPy finds a GPU in this process and in each worker of pytest-xdist."""
    config.pluginmanager.register(FewerFiles(config))  # a hook of this file would not see the folder minillm
    if not config.getoption("standin"):
        return
    try:
        attach()
        carry_out_everything()
    except UserError as error:
        raise pytest.UsageError(f"--standin: {error}") from None


class FewerFiles:
    """Of a thousand files few have tests that are slow, or need a GPU: the others are not imported for those."""

    def __init__(self, config):
        self.slow, self.standin = config.option.markexpr == "slow", config.getoption("standin")

    def pytest_ignore_collect(self, collection_path):
        if collection_path.suffix == ".py" and (self.slow or self.standin):
            text = collection_path.read_text(encoding="utf-8")
            wanted = may_have_slow_tests(collection_path, text) if self.slow else re.search("gpu|device", text)
            return None if wanted and TESTS in collection_path.parents else True
        return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark the exhaustive tests `slow`, before pytest leaves out what is not asked for.

    With --standin the tests marked gpu are left: the others expect a machine as it is.
    """
    for item in items:
        if SLOW.search(item.nodeid):
            item.add_marker(pytest.mark.slow)
    if config.getoption("standin"):
        others = [item for item in items if item.get_closest_marker("gpu") is None]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.get_closest_marker("gpu") is not None]


def pytest_runtest_setup(item):
    """Skip the tests marked gpu where there is none."""
    if item.get_closest_marker("gpu") is not None and (reason := why_no_gpu()):
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def all_kernels_afterwards():
    """What a test, a benchmark or a page turned off is on again for the next one.

    A kernel that failed on the stand-in fails its test alone, not all that follow.
    """
    yield
    use_kernels(True)
    forget_errors()


@pytest.fixture(autouse=True)
def threads_of_earlier_tests(monkeypatch):
    """Those that servers and progress bars of earlier tests have left idle keep no process from being forked."""
    left, found = set(threading.enumerate()), processes.other_threads
    monkeypatch.setattr(processes, "other_threads", lambda: [thread for thread in found() if thread not in left])


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
        yield "cuda"
        return
    needs_compiler()
    with configured(order=request.param, seed=11):
        yield "cudasim"
