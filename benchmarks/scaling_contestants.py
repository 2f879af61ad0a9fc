"""The processes of the contestants of benchmarks/scaling.py: start them, send them work, see what else the machine does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from minillm.errors import UserError

CHECKOUT = Path(__file__).parent.parent
ONE_THREAD = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}


@dataclass(frozen=True)
class Contestant:
    """ranks: processes; threads: of each. kind, task: see scaling_rank.py."""

    name: str
    kind: str
    ranks: int
    threads: int
    task: str = "train"

    def memory(self, model: int) -> float:
        """About how many bytes it takes, with a model of so many: weights, gradients, moments."""
        if self.task == "collectives":
            return 5e8
        of_kind = {"threads": 3 + self.threads, "processes": 3 + self.ranks, "mpi": 2 + 2.5 * self.ranks}
        return model * of_kind.get(self.kind, 4.5 * self.ranks)

    def commands(self, arguments: list[str], store: str) -> list[list[str]]:
        """Of the programs to start."""
        rank = [sys.executable, "-m", "benchmarks.scaling_rank", "--kind", self.kind, "--name", self.name, *arguments]
        rank += ["--task", self.task, "--ranks", str(self.ranks), "--threads", str(self.threads), "--store", store]
        if self.kind == "mpi":
            return [[mpiexec(), "-n", str(self.ranks), *rank]]
        if self.kind in ("torch", "part"):
            return [[*rank, "--rank", str(number)] for number in range(self.ranks)]
        return [rank]


def mpiexec() -> str:
    """Where it is: beside Python, or in the path."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise UserError('there is no mpiexec: pip install "minillm[mpi]", or leave mpi out of --contestants')
    return str(Path(found).resolve())  # its helpers lie beside the file itself


class Running:
    """Contestants whose processes run: use it as a context manager. At the end they are ended."""

    def __init__(self, contestants: list[Contestant], config, batch_size: int, largest: int):
        self._contestants, self._config, self._batch_size, self._largest = contestants, config, batch_size, largest
        self._programs: list[subprocess.Popen] = []
        self._ranks: dict[tuple[str, int], object] = {}  # name, rank -> connection
        self._pids: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Running:
        self._folder = tempfile.TemporaryDirectory()
        try:
            for each in self._contestants:
                self._start(each)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _start(self, contestant: Contestant) -> None:
        """One after the other, so that memory is not taken by all at once before any has started."""
        config = self._config
        name = contestant.name.replace(" ", "-")
        address, store = (str(Path(self._folder.name) / f"{name}.{kind}") for kind in ("socket", "store"))
        arguments = ["--address", address, "--batch-size", str(self._batch_size), "--largest", str(self._largest)]
        for field in ("vocab_size", "context_length", "n_layer", "n_head", "d_model"):
            arguments += [f"--{field.replace('_', '-')}", str(getattr(config, field))]
        arguments += ["--bias"] if config.bias else []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(contestant.ranks)
            listener.settimeout(1.0)
            programs = [
                subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdin=subprocess.DEVNULL, cwd=CHECKOUT)
                for command in contestant.commands(arguments, store)
            ]
            self._programs += programs
            for _ in range(contestant.ranks):
                with _accepted(listener, programs, contestant.name) as connection:
                    messages = connection.makefile("rw", encoding="utf-8")
                rank, pid = json.loads(messages.readline())
                self._ranks[contestant.name, rank], self._pids[contestant.name, rank] = messages, pid

    def ask(self, contestant: Contestant, *request) -> list[float]:
        """What all its processes answer, which work at the same time: for each entry the slowest."""
        ranks = [self._ranks[contestant.name, rank] for rank in range(contestant.ranks)]
        for messages in ranks:
            _send(messages, request)
        answers = [messages.readline() for messages in ranks]
        if not all(answers):
            raise UserError(f"{contestant.name}: a process has ended")
        return [max(times) for times in zip(*map(json.loads, answers))]

    @contextmanager
    def watched(self, contestant: Contestant) -> Iterator[SimpleNamespace]:
        """Afterwards `waited` says how long its processes were ready to run and waited for a core, as
        a share of the time: other work of the machine had it, or they had it from each other.
        """
        load = SimpleNamespace(waited=0.0)
        pids = [self._pids[contestant.name, rank] for rank in range(contestant.ranks)]
        before, started = sum(map(_waited, pids)), time.perf_counter()
        yield load
        load.waited = (sum(map(_waited, pids)) - before) / (time.perf_counter() - started) / len(pids)

    def __exit__(self, *exception) -> None:
        for messages in self._ranks.values():
            if exception[0] is None:
                _send(messages, ["end"])
            messages.close()
        for program in self._programs:
            if exception[0] is not None:
                program.terminate()
            program.wait()
        self._folder.cleanup()


def _send(messages, request) -> None:
    messages.write(json.dumps(request) + "\n")
    messages.flush()


def _accepted(listener: socket.socket, programs, name: str) -> socket.socket:
    """The next connection. Raises UserError where a process ends before it has one."""
    while True:
        try:
            return listener.accept()[0]
        except TimeoutError:
            ended = [program.poll() for program in programs if program.poll() is not None]
            if ended:
                raise UserError(f"{name}: a process ended with exit code {ended[0]}") from None


def available_bytes() -> float:
    """Memory that is free for programs."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _waited(pid: int) -> float:
    """Seconds that all threads of a process have waited for a core (Linux, sched-stats.txt: the second
    number)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) / 1e9
