"""The same weights and losses, to the last bit, on any number of ranks, processes and threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mpi_ranks import ENVIRONMENT, TIMEOUT

PROGRAM = str(Path(__file__).parent / "equal_bits.py")
MATRIX = {  # processes.threads, and ranks.threads of mpiexec: groups with + at the same time
    "gpt2": (
        ("1.1", "1.2", "1.4", "1.8", "2.1", "2.4", "3.2", "4.2", "5.1", "6.1", "7.1", "8.1"),
        ("8.1", "7.1+1.1", "6.1+2.1", "5.1+3.2", "4.2+2.4+1.8"),
    ),
    "llama": (("1.1", "1.8", "2.4", "8.1"), ("8.1", "4.2+2.4")),
    "uneven": (("1.1", "3.2", "6.1"), ("5.1+3.2", "6.1+2.1")),
    "lora": (("1.1", "4.2", "5.1"), ("8.1", "4.1+3.1")),
}


def results(output):
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def here(folder, steps, kinds, *numbers):
    """Of processes and threads without MPI."""
    command = [sys.executable, PROGRAM, "here", str(folder), str(steps), kinds, *numbers]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return results(done.stdout)


def by_mpi(ranks, size, folder, steps, kinds, *rounds):
    done = ranks(size, PROGRAM, "mpi", str(folder), str(steps), kinds, *rounds)
    assert done.returncode == 0, done.stdout[-2000:]
    return results(done.stdout)


def check(found, kinds, numbers):
    """All of a kind are alike, and none is missing."""
    for kind in kinds.split(","):
        of_kind = [each for each in found if each["kind"] == kind]
        assert len(of_kind) == numbers
        first = of_kind[0]
        assert first["losses"]
        for other in of_kind[1:]:
            assert other["losses"] == first["losses"], (first["what"], other["what"])
            assert other["weights"] == first["weights"], (first["what"], other["what"])


def test_ranks_and_threads_in_short(ranks, tmp_path):
    found = here(tmp_path, 6, "gpt2", "1.1", "2.3")
    found += by_mpi(ranks, 3, tmp_path, 6, "gpt2", "2.1+1.2", "3.2")
    check(found, "gpt2", 5)
    assert len({each["weights"] for each in here(tmp_path, 5, "gpt2", "1.2")} | {found[0]["weights"]}) == 2


@pytest.mark.parametrize("kind", MATRIX)
def test_fifty_steps_on_many_numbers_of_ranks_processes_and_threads(ranks, tmp_path, kind):
    numbers, rounds = MATRIX[kind]
    found = here(tmp_path, 50, kind, *numbers) + by_mpi(ranks, 8, tmp_path, 50, kind, *rounds)
    check(found, kind, len(numbers) + sum(len(each.split("+")) for each in rounds))
