"""A run goes on, with the same bits, on another number of processes and threads, on ranks of MPI, and on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mpi_ranks import ENVIRONMENT, TIMEOUT, ranks

__all__ = ["ranks"]
PROGRAM = str(Path(__file__).parent / "resumed_ranks.py")


def here(folder, kinds, *stages):
    """What each stage has left, by kind and step: of processes and threads of this machine."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, PROGRAM, str(folder), kinds, *stages]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return results(done.stdout)


def by_mpi(ranks, size, folder, kinds, *stages):
    folder.mkdir(exist_ok=True)
    done = ranks(size, PROGRAM, str(folder), kinds, *stages)
    assert done.returncode == 0, done.stdout[-2000:]
    return results(done.stdout)


def results(output):
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {(line["kind"], line["step"]): line["contents"] for line in lines}


def test_on_other_numbers_of_processes(tmp_path):
    expected = here(tmp_path / "alone", "adamw,muon", "1.1.1", "1.1.1", "1.1.1")
    assert len(expected) == 6 and len({json.dumps(each) for each in expected.values()}) == 6
    assert here(tmp_path / "ranks", "adamw,muon", "2.1.1", "3.1.2", "1.2.1") == expected


def test_from_mpi_to_this_machine_and_back(tmp_path, ranks):
    expected = here(tmp_path / "alone", "adamw", "1.1.1", "1.1.1", "1.1.1")
    found = by_mpi(ranks, 3, tmp_path / "ranks", "adamw", "3.1.1")
    found |= here(tmp_path / "ranks", "adamw", "2.1.1")
    found |= by_mpi(ranks, 2, tmp_path / "ranks", "adamw", "2.2.1")
    assert found == expected


def test_every_kind_of_run_on_every_kind_of_ranks(tmp_path, ranks):
    kinds = "adamw,adam,muon,lion,sgd,lora"
    expected = here(tmp_path / "alone", kinds, "1.1.1", "1.1.1", "1.1.1")
    assert len(expected) == 18
    assert here(tmp_path / "processes", kinds, "2.1.1", "3.1.1", "1.2.1") == expected
    assert by_mpi(ranks, 3, tmp_path / "mpi", kinds, "3.1.2", "1.3.1", "2.1.3") == expected
