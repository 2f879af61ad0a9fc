"""Who started a process, by the variables of each launcher, and what is said where that fails."""

import os
import subprocess
import sys

import pytest

from minillm.distributed import launch
from minillm.distributed.alone import Alone
from minillm.distributed.launch import cores_of, world
from minillm.distributed.launched import LAUNCHERS, Launch, launched
from minillm.errors import UserError

SRUN = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
SCRIPT = 0xFFFFFFFB  # the step's number in a script of sbatch


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, Launch("mpiexec", 1, 0)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3", "PMI_FD": "9"}, Launch("mpiexec", 4, 3)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}, Launch("mpiexec", 2, 1)),
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"}, Launch("mpiexec", 2, 0)),
        ({**SRUN, "SLURM_STEP_ID": "0", "PMIX_RANK": "2"}, Launch("srun", 4, 2)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Launch()),  # a script of sbatch
        ({**SRUN, "SLURM_STEP_ID": str(SCRIPT), "SLURM_PROCID": "0"}, Launch()),
        ({**SRUN, "SLURM_STEP_ID": str(SCRIPT - 1), "SLURM_PROCID": "0"}, Launch()),  # an interactive step
        # mpiexec in a job: its helpers are a step of one task a node
        (
            {"SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PMI_SIZE": "8", "PMI_RANK": "5"},
            Launch("mpiexec", 8, 5),
        ),
        ({"PMI_SIZE": "", "PMI_RANK": "x"}, Launch()),
    ],
)
def test_each_launcher_is_known_by_its_variables(environment, expected):
    assert launched(environment) == expected


@pytest.fixture
def started(monkeypatch):
    """Make this process look as if a launcher had started it."""

    def start(rank=0):
        for _, *names in LAUNCHERS:
            for name in names:
                monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PMI_SIZE", "4")
        monkeypatch.setenv("PMI_RANK", str(rank))

    return start


def test_a_process_alone_needs_no_mpi(monkeypatch):
    monkeypatch.setattr(launch, "launched", lambda: Launch("mpiexec", 1, 0))
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert isinstance(world(), Alone)
    assert cores_of(world()) >= 1


def test_without_mpi4py_rank_0_says_what_to_install_and_the_others_are_silent(monkeypatch, started):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    started()
    with pytest.raises(UserError, match=r'mpiexec started 4 processes.*pip install "minillm\[mpi\]"'):
        world()
    started(rank=3)
    with pytest.raises(SystemExit) as end:
        world()
    assert end.value.code == 2


def test_an_mpi_library_that_is_missing_or_that_of_another_launcher(ranks):
    program = "from minillm.distributed.launch import world; world()"
    done = ranks(2, "-c", program, MPI4PY_LIBMPI="/nowhere/libmpi.so")
    assert done.returncode and done.stdout.count("finds no MPI library (cannot load MPI library)") == 1, done.stdout
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **OTHER}, text=True, capture_output=True)
    assert done.returncode and "srun started 2 processes, but the MPI library of mpi4py, " in done.stderr, done.stderr
    assert "sees 1: they belong to different MPIs. Try srun --mpi=pmix" in done.stderr


OTHER = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
CORES = """
import os
from minillm.distributed.launch import cores_of, world
communicator = world()
cores = sorted(os.sched_getaffinity(0))[:2]
if {pinned}:
    os.sched_setaffinity(0, cores[communicator.rank : communicator.rank + 1])
else:
    os.sched_setaffinity(0, cores)
print("cores:", cores_of(communicator), flush=True)
communicator.close()
"""


@pytest.mark.skipif(launch.threads.cores() < 2, reason="one core")
@pytest.mark.parametrize(("size", "pinned"), [(2, True), (2, False), (3, False)])
def test_a_rank_has_its_share_of_the_cores(ranks, size, pinned):
    done = ranks(size, "-c", CORES.format(pinned=pinned))
    assert done.stdout.count("cores: 1") == size, done.stdout
