"""Runs a kernel in a process of its own (kernel_process.py), and ends it in time."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import minillm
from minillm.errors import UserError

COMPILING = 300  # seconds that g++ may take
STARTING = 60  # seconds until the process has loaded minillm
BEAT = 0.2  # seconds between two events at most, so that a page that has gone is noticed
MEMORY = 4 * 2**30  # bytes that the process may fill, and the compiler, and a file of theirs: at most
PRINTED = 20_000  # bytes of what a kernel prints that are kept
AT_ONCE = 2  # kernels
HOME = Path(minillm.__file__).parent.parent  # from where the process imports the same minillm
START = "from minillm.web.play.kernel_process import main; main()"

_places = threading.BoundedSemaphore(AT_ONCE)


def run_apart(request: dict, seconds: float) -> Iterator[dict]:
    """Events of a run: "state" now and then, at last "result", "refused" or "ended".

    request: what kernel_process.py takes; "memory" may be missing, then it is memory_limit().
    seconds: that the kernel may run, compiling aside. The process has ended when the iterator has.
    Raises UserError where too many run already.
    """
    if not _places.acquire(blocking=False):
        raise UserError(f"{AT_ONCE} kernels are running already: wait for one of them, or stop it")
    try:
        with _Process(request) as process:
            yield from process.watch(seconds)
    finally:
        _places.release()


def memory_limit() -> int:
    """MEMORY, or half of what this machine has."""
    return min(MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)


class _Process:
    """A run: a group of processes, to which the compiler belongs, so that all end together."""

    def __init__(self, request: dict):
        reading, writing = os.pipe()
        command = [sys.executable, "-c", START, str(writing)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
            cwd=HOME,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # of many cores their memory would be counted
        )
        os.close(writing)
        self.events, self.rest, self.printed, self.dropped = reading, b"", b"", 0
        with suppress(BrokenPipeError):  # it died at once: the pipe of events ends, too
            self.process.stdin.write(json.dumps({"memory": memory_limit(), **request}).encode() + b"\n")
            self.process.stdin.flush()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # asks it to end
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        os.close(self.events)

    def watch(self, seconds: float) -> Iterator[dict]:
        """Its events, with what the kernel printed at the end."""
        state, since = {"state": "starting", "file": ""}, time.monotonic()
        limits = {"starting": STARTING, "compiling": COMPILING, "running": seconds}
        while True:
            events, ended = self._read()
            for event in events:
                if event["event"] in ("result", "refused"):
                    yield {**event, "printed": self._all_printed()}
                    return
                state, since = {"state": event["event"], "file": event["file"]}, time.monotonic()
            taken = time.monotonic() - since
            if ended:
                yield {"event": "ended", "text": self._how_it_ended(state["state"]), "printed": self._all_printed()}
                return
            if taken > limits[state["state"]]:
                yield {"event": "ended", "text": _too_long(state, limits), "printed": self._all_printed()}
                return
            yield {"event": "state", **state, "seconds": taken}

    def _read(self) -> tuple[list[dict], bool]:
        """What it has written within a beat, and whether it has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.events, selectors.EVENT_READ)
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(BEAT)]
        if self.process.stdout in ready:
            self._take_printed()
        if self.events not in ready:
            return [], False
        part = os.read(self.events, 2**20)
        *lines, self.rest = (self.rest + part).split(b"\n")
        return [json.loads(line) for line in lines], not part

    def _take_printed(self) -> bool:
        part = os.read(self.process.stdout.fileno(), 2**16)
        kept = part[: PRINTED - len(self.printed)]
        self.printed += kept
        self.dropped += len(part) - len(kept)
        if not part:
            time.sleep(BEAT / 10)  # at its end a pipe is always ready
        return bool(part)

    def _all_printed(self) -> str:
        os.set_blocking(self.process.stdout.fileno(), False)
        with suppress(BlockingIOError):
            while self.dropped < PRINTED and self._take_printed():
                pass
        text = self.printed.decode("utf-8", "replace")
        return f"{text}\n... and {self.dropped:,} bytes or more" if self.dropped else text

    def _how_it_ended(self, state: str) -> str:
        code = self.process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"the process {'of the kernel' if state == 'running' else 'that was ' + state} crashed: it ended {how}"


def _too_long(state: dict, limits: dict) -> str:
    limit = f"{limits[state['state']]:g} s"
    if state["state"] == "running":
        return (
            f"the kernel had not ended after {limit} and was stopped: it may never end, or need more time or less work"
        )
    return f"{state['state']} {state['file']} had not ended after {limit} and was stopped"
