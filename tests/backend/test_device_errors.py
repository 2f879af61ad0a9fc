"""--device cuda where there is none: one line that says what to do."""

import subprocess
import sys

import numpy as np
import pytest

from minillm.backend import arrays as backend
from minillm.errors import MissingExtra, UserError


@pytest.fixture
def cupy_that_finds(monkeypatch):
    """A function with which CuPy finds this driver and no usable GPU; CuPy itself is made for CUDA 13.0."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

    def put(driver: int) -> None:
        monkeypatch.setattr(cupy.cuda, "is_available", lambda: False)
        monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: driver)
        monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda: 13000)

    backend._usable_cupy.cache_clear()
    yield put
    backend._usable_cupy.cache_clear()


@pytest.mark.parametrize(
    "driver, message",
    [
        (0, 'device "cuda": there is no NVIDIA driver; install one, or use device "cpu" or "cudasim"'),
        (
            12040,
            'device "cuda": the driver supports CUDA 12.4, this CuPy needs CUDA 13.0: update the driver, or '
            'pip install "minillm[cuda12]"',
        ),
        (13010, 'device "cuda": CuPy finds no GPU (nvidia-smi shows those of this machine); use device "cpu"'),
    ],
)
def test_a_driver_that_is_not_there_or_too_old(cupy_that_finds, driver, message):
    cupy_that_finds(driver)
    with pytest.raises(UserError) as caught:
        backend.to_device(np.zeros(1), "cuda")
    assert str(caught.value) == message


def test_without_cupy(monkeypatch):
    backend._usable_cupy.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        MissingExtra, match=r'device "cuda" needs CuPy, which is not installed: pip install "minillm\[cuda13\]"'
    ):
        backend.to_device(np.zeros(1), "cuda")


@pytest.mark.parametrize("command", ["train --data text.txt", "evaluate run --data text.txt", "generate run"])
def test_every_command_says_so_in_one_line_and_writes_nothing(command, tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
    main = "from minillm.cli import main\nmain()"
    if " run" in command:
        small = "train --data text.txt --out run --tokenizer char --n-layer 1 --n-head 1 --d-model 8 --context-length 8"
        small += " --max-steps 1 --sample-tokens 0 --eval-windows 1"
        subprocess.run([sys.executable, "-c", main, *small.split()], cwd=tmp_path, check=True, capture_output=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    hidden = f"import sys; sys.modules['cupy'] = None\n{main}"
    arguments = [*command.split(), "--device", "cuda"]
    done = subprocess.run([sys.executable, "-c", hidden, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith('minillm: device "cuda" needs CuPy, which is not installed')
    assert sorted(path.name for path in tmp_path.iterdir()) == before
