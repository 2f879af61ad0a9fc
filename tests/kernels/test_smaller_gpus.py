"""Attention on GPUs with less shared memory: every launch is one that the GPU grants. Each has a process of its own.

Kernels are compiled for each kind of GPU, which takes a minute for all widths: of those with 99 KiB a block one has all, and
the others the widest. tests/kernels/test_attention.py compares the bytes of all with every kind's limit.
"""

import subprocess
import sys

import pytest

WIDTHS = (32, 64, 96, 128)
# Forward and backward of every width, in every precision that the GPU takes. Nothing is computed.
PROGRAM = """
import sys
import cupy
from minillm.backend.precision import activation_dtype, matmul_precision
from minillm.kernels.attention import best_rung, attention_backward, attention_forward

tensor_cores = int(cupy.cuda.Device().compute_capability) >= 80
for width in map(int, sys.argv[1:]):
    for precision in ("float32", "tf32", "bfloat16") if tensor_cores else ("float32",):
        q = cupy.zeros((1, 2, 70, width), activation_dtype(precision))
        with matmul_precision(precision):
            print(width, precision, best_rung(q))
            y, saved = attention_forward(q, q, q)
            attention_backward(y, saved)
"""


@pytest.fixture
def on(tmp_path):
    """A function that runs a program with a GPU of a capability in its place; returns the process when it has ended."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)

    def run(capability, *program):
        command = [sys.executable, "-m", "minillm.kernels.standin", "--capability", capability, *map(str, program)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    (tmp_path / "program.py").write_text(PROGRAM)
    return run


@pytest.mark.parametrize(
    "capability, widths", [("8.6", (128,)), ("7.5", WIDTHS), ("8.6", WIDTHS), ("8.9", (128,)), ("12.0", (128,))]
)
def test_every_launch_is_granted(capability, widths, on):
    done = on(capability, "program.py", *widths)
    assert done.returncode == 0, done.stderr
    rungs = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert len(rungs) == len(widths) * (1 if capability == "7.5" else 3)
    for case, rung in rungs.items():
        is_wide = capability == "7.5" and int(case.split()[0]) > 64  # tiles that do not fit into 64 KiB
        assert rung == ("tiled" if is_wide else "flash" if case.endswith("float32") else "flash_tensor_cores"), case


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
def test_a_gpu_without_tensor_cores_for_it_is_named(dtype, on, tmp_path):
    small = "--data text.txt --out run --tokenizer char --n-layer 1 --n-head 1 --d-model 8 --context-length 8"
    done = on("7.5", "-m", "minillm", "train", "--device", "cuda", "--dtype", dtype, *small.split())
    assert done.returncode == 2 and not done.stdout
    expected = f"dtype {dtype} needs a GPU of compute capability 8.0 or later, this one has 7.5: use float32"
    assert done.stderr == f"minillm: {expected}\n"
    assert not (tmp_path / "run").exists()
