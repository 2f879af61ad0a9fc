"""Random sequences of collectives give what they have to, however fast or slow each rank is: on all ranks, and on groups of
them in turn.
"""

from pathlib import Path

import pytest
from collective_sequences import SMALL_STAGING, on_processes

from minillm.distributed import workers

PROGRAM = str(Path(__file__).parents[1] / "collective_sequences.py")


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_processes(ranks, monkeypatch):
    monkeypatch.setattr(workers, "STAGING", SMALL_STAGING)
    monkeypatch.setattr(workers, "BLOCK", 100)
    on_processes(ranks, 120, seed=ranks, pause_inside=True)


def test_mpi(ranks):
    done = ranks(4, PROGRAM, "0")
    assert done.returncode == 0 and "1 sequences of 300" in done.stdout, done.stdout[-2000:]
