"""Out of memory: one line with what was asked for, what is free, and the changes with which it fits."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from minillm import GPT2Config
from minillm.profiling.memory import Workload, estimate
from minillm.profiling.memory_advice import (
    Memory,
    OutOfMemory,
    advice,
    explain,
    explain_oom,
    explain_shortly,
    is_out_of_memory,
    memory_of,
)

WORKLOAD = Workload(GPT2Config(), 16, device="cuda")  # 12.6 GB, of which weights and moments are 1.5 GB
GIGABYTE = 10**9


def suggested(text: str) -> list[str]:
    return re.findall(r"--[a-z-]+(?: [a-z0-9]+)?(?= \()", text)


def changed(workload: Workload, options: str) -> Workload:
    """The workload with the options of one suggestion."""
    for option, value in re.findall(r"--([a-z-]+)(?: ([a-z0-9]+))?", options):
        if option == "context-length":
            workload = replace(workload, config=replace(workload.config, context_length=int(value)))
        elif option == "checkpoint-activations":
            workload = replace(workload, checkpoint_activations=True)
        else:
            workload = replace(workload, **{option.replace("-", "_"): int(value) if value.isdigit() else value})
    return workload


@pytest.mark.parametrize("gigabytes, kinds", [(10, 4), (6, 3), (2.8, 1)])
def test_every_single_change_that_fits_is_named_and_fits(gigabytes, kinds):
    options = suggested(advice(WORKLOAD, int(gigabytes * GIGABYTE)))
    assert len(options) == kinds
    for option in options:
        assert estimate(changed(WORKLOAD, option)).total <= 0.9 * gigabytes * GIGABYTE, option


def test_the_batch_is_the_largest_that_fits():
    text = advice(WORKLOAD, 10 * GIGABYTE)
    batch = int(re.search(r"--batch-size (\d+)", text)[1])
    assert estimate(replace(WORKLOAD, batch_size=batch + 1)).total > 9 * GIGABYTE


def test_several_changes_together():
    text = advice(WORKLOAD, int(2.6 * GIGABYTE))
    options = re.search(r"but (.*) together are", text)[1]
    assert options.count("--") > 1
    assert estimate(changed(WORKLOAD, options)).total <= 0.9 * 2.6 * GIGABYTE


def test_a_model_that_is_too_large():
    text = advice(WORKLOAD, GIGABYTE)
    assert text.startswith("No setting is enough") and "of which weights and moments are 1.4" in text


def test_the_line_says_what_was_asked_and_what_is_free():
    memory = pytest.importorskip("cupy", reason="CuPy is not installed").cuda.memory
    error = memory.OutOfMemoryError(1234, 9)
    text = explain(WORKLOAD, error, Memory(free=123_000_000, available=10 * GIGABYTE))
    assert "\n" not in text
    assert text.startswith(
        "out of memory on cuda: out of memory allocating 1,234 bytes (allocated so far: 9 bytes); 123 MB "
    )
    assert "This run takes about 12.30 GB (weights 498 MB, moments 996 MB," in text


def test_errors_of_numpy_and_others():
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError, match="^something else$"), explain_oom(replace(WORKLOAD, device="cpu")):
        raise RuntimeError("something else")
    with pytest.raises(OutOfMemory, match="out of memory on cpu: a request for memory was refused;"):
        with explain_oom(replace(WORKLOAD, device="cpu")):
            raise MemoryError


@pytest.mark.gpu
def test_errors_of_cupy():
    import cupy
    from cupy_backends.cuda.libs.cublas import CUBLASError

    assert is_out_of_memory(CUBLASError(3)) and not is_out_of_memory(CUBLASError(13))  # ALLOC_FAILED, EXECUTION_FAILED
    with pytest.raises(
        OutOfMemory, match=r"out of memory on cuda: out of memory allocating 1,.* bytes .* are free\. This"
    ):
        with explain_oom(WORKLOAD):
            cupy.empty(10**15, "uint8")
    assert 0 < memory_of("cuda").free <= memory_of("cuda").available


def test_commands_without_a_workload():
    assert re.match(r"out of memory on cpu: unable to allocate 9 GiB; [\d.]+ [GM]B are free: a smaller --batch-size", (
        explain_shortly(MemoryError("Unable to allocate 9 GiB"))
    ))  # fmt: skip


def test_what_the_host_has():
    memory = memory_of("cpu")
    assert 0 < memory.free < memory.available


# Training under a limit of the address space: no memory of this machine is used up.
LIMITED = """
import resource, sys
import minillm.cli.train_progress
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 400_000_000, resource.RLIM_INFINITY))
from minillm.cli import main
main()
"""
TRAIN = "train --data text.txt --tokenizer char --n-layer 4 --n-head 4 --d-model 64 --context-length 256 --max-steps 1"
TRAIN += " --batch-size 64 --eval-windows 2 --sample-tokens 0 --dropout 0"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is Linux's")
def test_training_under_a_limit_and_with_what_is_advised(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)

    def train(*more):
        command = [sys.executable, "-c", LIMITED, *TRAIN.split(), *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    failed = train("--out", "run")
    line = failed.stderr.splitlines()[-1]
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert line.startswith("minillm: out of memory on cpu: unable to allocate ") and "It would fit with" in line
    assert "--checkpoint-activations (" in line
    done = train("--out", "other", "--checkpoint-activations")
    assert done.returncode == 0, done.stderr
