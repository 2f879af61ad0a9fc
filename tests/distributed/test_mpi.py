"""The transport over MPI: every collective against its formula, the bytes it counts, how it ends."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENDS = """
import sys
from minillm.distributed.launch import world
communicator = world()
communicator.barrier()
if communicator.rank == 1:
    {what}
communicator.barrier()
communicator.close()
print("rank", communicator.rank, "ends well")
"""


@pytest.mark.parametrize(("size", "piece"), [(1, ""), (2, ""), (3, ""), (5, ""), (1, "4096"), (3, "4096")])
def test_every_collective_has_the_bits_of_one_rank_and_counts_its_bytes(ranks, size, piece):
    done = ranks(size, str(HERE / "mpi_collectives.py"), *piece.split())
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("is done") == size


@pytest.mark.parametrize(
    ("what", "code"),
    [("raise ValueError('broken')", None), ("sys.exit(2)", None), ("communicator.abort(5)", 5)],
    ids=["exception", "exit", "abort"],
)
def test_a_rank_that_ends_early_ends_all(ranks, what, code):
    """The launcher's code is that of the rank, or of the signal that ended the others."""
    done = ranks(3, "-c", ENDS.format(what=what))
    assert done.returncode == code if code else done.returncode, done.stdout
    assert "ends well" not in done.stdout


def test_it_ends_well(ranks):
    done = ranks(3, "-c", ENDS.format(what="pass"))
    assert (done.returncode, done.stdout.count("ends well")) == (0, 3), done.stdout
