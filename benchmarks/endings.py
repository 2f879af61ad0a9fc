"""python -m benchmarks.endings [--moments N] [--write]: however one rank of a training ends, at whatever moment.

In a training by three ranks one of them, in turn, is killed (SIGKILL, as the system does where memory has run out), raises an
error, runs out of memory, hangs, or gets SIGTERM: at a random moment of the run, in whatever line it is then. Asked is
that all ranks end, with one line that names the rank, and that the run is resumed by another number of processes to the same
weights and losses as a run that was not disturbed, bit for bit.

The ranks are processes of this machine, and, where there is one, ranks under mpiexec.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import NamedTuple

from benchmarks.common import write_results
from minillm.distributed.launch import world
from minillm.distributed.machine import Machine
from minillm.distributed.watch import Watch
from minillm.errors import UserError
from minillm.training import TrainingSettings, loop, resume_run, start_run, train
from minillm.training.claim import FolderInUse
from minillm.training.metrics import read_metrics

RANKS, DEADLINE, LIMIT = 3, 2.0, 10.0  # LIMIT: seconds for all to end
KINDS = ("kill", "raise", "memory", "hang", "signal")
MODEL = dict(n_layer=1, n_head=2, d_model=16, context_length=16)
SETTINGS = dict(
    batch_size=8, batch_parts=4, max_steps=24, eval_interval=6, eval_windows=4, sample_tokens=4, warmup_steps=5
)
TEXT = "the quick brown fox jumps over the lazy dog. " * 40


class Ending(NamedTuple):
    """How a disturbed run ended. moment: seconds from its first step to the fault; seconds: from the fault to the end of all;
    lines: those of minillm that are errors."""

    moment: float
    seconds: float
    code: int
    lines: list[str]


def main() -> None:
    """Show a line for each transport and kind; exit with 1 if any run did not end as it has to."""
    loop._finish = lambda run, reporter: None  # the picture of the losses takes longer than such a run
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20, help="how many for each kind")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--transports", nargs="+", default=None, choices=("processes", "mpiexec"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/endings.json")
    parser.add_argument("--rank", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        sys.exit(_rank(*given.rank))
    transports = given.transports or (["processes", "mpiexec"] if shutil.which("mpiexec") else ["processes"])
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(Path(folder), transports, given.kinds, given.moments, Random(given.seed)))
    if given.write:
        write_results("endings", {"ranks": RANKS, "deadline": DEADLINE, "rows": rows})
    sys.exit(any(row["wrong"] for row in rows))


def measure(folder: Path, transports, kinds, moments: int, random: Random):
    """A row for each transport and kind: {"transport", "kind", "runs", "longest", "ended", "wrong"}."""
    (folder / "text.txt").write_text(TEXT)
    _in_a_process(
        lambda: start_run(TrainingSettings(data=(str(folder / "text.txt"),), **SETTINGS), MODEL, folder / "start")
    )
    whole = shutil.copytree(folder / "start", folder / "whole")
    _in_a_process(lambda: train(resume_run(whole), machine=Machine(processes=1, threads=1)))
    for transport in transports:
        length = _disturbed(shutil.copytree(folder / "start", folder / "timed"), transport, "none", 0, 0.0).moment
        shutil.rmtree(folder / "timed")
        for kind in kinds:
            endings, wrong = [], []
            for number in range(moments):
                run = shutil.copytree(folder / "start", folder / "run")
                rank, moment = number % RANKS, random.uniform(0, 0.95 * length)
                if kind == "signal" and transport == "processes":
                    rank = 0  # the others leave signals to it
                while (ending := _disturbed(run, transport, kind, rank, moment)).seconds < 0:  # it was done before
                    shutil.rmtree(run)
                    run, moment = shutil.copytree(folder / "start", folder / "run"), moment / 2
                wrong += [f"{moment:.3f} s, rank {rank}: {each}" for each in _faults(run, whole, kind, rank, ending)]
                endings.append(ending)
                shutil.rmtree(run)
            ended = max(ending.seconds for ending in endings)
            row = dict(transport=transport, kind=kind, runs=moments, longest=round(ended, 2), wrong=wrong)
            row["line"] = next((line for ending in endings for line in ending.lines), "")
            print(
                f"{transport:10} {kind:7} {moments:3} runs, all ended within {ended:5.2f} s",
                *wrong,
                sep="\n  ",
                flush=True,
            )
            yield row


def _faults(run: Path, whole: Path, kind: str, rank: int, ending: Ending) -> list[str]:
    """What is wrong with an ending; nothing, as a rule."""
    found = []
    if ending.seconds > LIMIT:
        found.append(f"took {ending.seconds:.1f} s to end")
    if kind == "signal":
        if ending.code or ending.lines:
            found.append(f"exit code {ending.code}: {ending.lines}")
    elif ending.code == 0 or len(ending.lines) != 1 or not re.match(rf"minillm: rank {rank} is lost", ending.lines[0]):
        found.append(f"exit code {ending.code}: {ending.lines}")
    processes = 1 + (RANKS + rank) % 4  # 1, 2 or 4: another number
    _in_a_process(lambda: train(_opened(run), machine=Machine(processes=processes, threads=1)))
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        if (run / name).read_bytes() != (whole / name).read_bytes():
            found.append(f"{name} differs after a resume by {processes}")
    if _losses(run) != _losses(whole):
        found.append("other losses")
    return found


def _opened(run: Path):
    """A process that is just ending may hold the folder for some milliseconds more."""
    until = time.monotonic() + LIMIT
    while True:
        try:
            return resume_run(run)
        except FolderInUse:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _losses(run: Path) -> list:
    return [
        (e["event"], e["step"], e.get("loss"), e.get("val_loss")) for e in read_metrics(run) if e["event"] != "sample"
    ]


# ----------------------------------------------------------------------------------------------- a disturbed run


def _disturbed(run: Path, transport: str, kind: str, rank: int, moment: float) -> Ending:
    """Train in processes of their own, of which one is disturbed."""
    clock, said = run.with_name("clock"), run.with_name("said")
    clock.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.endings", "--rank", transport, str(run), kind, str(rank), str(moment)]
    with open(said, "w+") as output:
        if transport == "mpiexec":
            code = subprocess.run(["mpiexec", "-n", str(RANKS), *command], stdout=output, stderr=output).returncode
        else:
            code = _in_a_process(lambda: _rank(*command[4:]), output.fileno(), may_fail=True)
        ended = time.time()
        lines = [line for line in said.read_text().splitlines() if line.startswith("minillm: ")]
    began, *fault = [float(line) for line in clock.read_text().split()]
    if not fault:
        return Ending(ended - began, -1.0, code, lines)
    return Ending(fault[0] - began, ended - fault[0], code, lines)


def _in_a_process(work, output: int | None = None, may_fail: bool = False) -> int:
    """The exit code of a fork that calls `work`, when all its processes have ended: they hold a pipe open."""
    alive, held = os.pipe()
    sys.stdout.flush()
    if not (pid := os.fork()):
        os.close(alive)
        if output is not None:
            os.dup2(output, 1), os.dup2(output, 2)
        code = 1
        try:
            code = work()
            code = code if isinstance(code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(held)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.read(alive, 1)
    os.close(alive)
    if code and not may_fail:
        raise SystemExit(f"a process ended with {code}")
    return code


def _rank(transport: str, folder: str, kind: str, rank: str, moment: str) -> int:
    """What a rank under mpiexec does, or the process that starts the others: as the command line would."""
    clock = Path(folder).with_name("clock")
    communicator = world() if transport == "mpiexec" else None
    _plant(clock, kind, int(rank), float(moment))
    machine = Machine(processes=1 if communicator else RANKS, threads=1, deadline=DEADLINE if kind == "hang" else 0.0)
    try:
        train(resume_run(folder, communicator=communicator), machine=machine)
    except UserError as error:
        if communicator is None or communicator.rank == 0:
            print(f"minillm: {error}", file=sys.stderr, flush=True)
        return 2
    if communicator is not None:
        communicator.close()
    return 0


def _plant(clock: Path, kind: str, rank: int, moment: float) -> None:
    """As soon as it is watched, a rank sets its clock: when that has run down, the fault happens wherever it is."""
    enter = Watch.__enter__

    def act(number, frame):
        with open(clock, "a") as file:
            file.write(f"{time.time()}\n")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "raise":
            raise ZeroDivisionError("planted")
        elif kind == "memory":
            raise MemoryError("planted")
        elif kind == "hang":
            time.sleep(1000)
        elif kind == "signal":
            os.kill(os.getpid(), signal.SIGTERM)

    def entered(watch):
        enter(watch)
        if watch._communicator.rank == 0:
            with open(clock, "a") as file:
                file.write(f"{time.time()}\n")
        watch._communicator.barrier()
        if watch._communicator.rank == rank and kind != "none":
            signal.signal(signal.SIGALRM, act)
            signal.setitimer(signal.ITIMER_REAL, max(moment, 1e-6))
        return watch

    Watch.__enter__ = entered


if __name__ == "__main__":
    main()
