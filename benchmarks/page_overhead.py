"""python -m benchmarks.page_overhead: what watching a training in the browser costs it.

A training runs behind `minillm play`'s server. Blocks of steps with the view Train open in chromium take turns with blocks
without it, and each is compared with the mean of the two beside it, so that a machine that grows busier or warmer favours
neither. Printed, each with the median of the ratios and its 95 % interval:

time            of a step, the median of a block. On a machine that does other work its interval is wide.
processor time  of a step, of the training's process, which serves the page, too. Other work on the machine hardly changes it.
noise           both once more, for neighbouring blocks without the page: what the method reads where there is no difference.

The browser's own processor time is given as a share of one core: it slows the training where no core is free for it. The last
line says whether the training is at most 5 % slower: by the time where its interval lies on one side of 1.05, else by the
processor time, and that the time did not settle it. Needs the extra test-web and chromium, and Linux; --client polls as the
page does, without a browser.

    python -m benchmarks.page_overhead
    python -m benchmarks.page_overhead --client --steps 20 --pairs 6
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import minillm
from minillm.web.play import train
from minillm.web.play.app import create_app
from minillm.web.play.server import listen, uvicorn_server
from minillm.web.play.studio import Studio
from minillm.web.play.training_session import Session

ALLOWED = 1.05  # times as long as without the page
ENDLESS = 10**7  # steps
SETTLED = 10  # steps at the beginning of a block that are not counted
EVERY = 0.5  # seconds between two questions of the page: OFTEN in static/train.js
POLL = """
import json, sys, time, urllib.request
offset = 0
while True:
    body = json.dumps({"runs": {"watched": offset}}).encode()
    with urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "train/now", body)) as answer:
        offset = json.load(answer)["runs"]["watched"]["offset"]
    time.sleep(float(sys.argv[2]))
"""


class Timed(Session):
    """A session that notes when each step was done."""

    def __init__(self, *arguments):
        self.done: list[float] = []
        super().__init__(*arguments)

    def on_step(self, *numbers) -> None:
        super().on_step(*numbers)
        self.done.append(time.perf_counter())


class Block(NamedTuple):
    """Some steps. time: median seconds of a step. processor: seconds of this process for a step.

    children: seconds that its child processes, the browser, had in a second.
    """

    time: float
    processor: float
    children: float


class Ratio(NamedTuple):
    """The median of ratios, and its 95 % interval by their order."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:6.3f} [{self.low:.3f}, {self.high:.3f}]"


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        alone, watched = measure(Path(folder), arguments)
    print(f"{len(watched)} blocks of {arguments.steps} steps, beside {len(alone)} without the page")
    print(f"{'':16} {'alone':>10} {'with page':>10}  {'ratio and 95 % interval':24} noise")
    ratios = {}
    for name, field in (("time", "time"), ("processor time", "processor")):
        first, second = ([getattr(block, field) for block in blocks] for blocks in (alone, watched))
        ratios[field] = ratio([2 * w / (a + b) for a, w, b in zip(first, second, first[1:])])
        noise = ratio([b / a for a, b in zip(first, first[1:])])
        print(f"{name:16} {1e3 * median(first):7.2f} ms {1e3 * median(second):7.2f} ms  {ratios[field]!s:24} {noise}")
    print(f"the browser had {median(block.children for block in watched):.1%} of a core")
    print(verdict(ratios["time"], ratios["processor"]))


def ratio(values: list[float]) -> Ratio:
    """The interval of the true median without the k smallest and k largest values.

    k: the most heads that a coin, thrown for each value, shows in 2.5 % of all series or less.
    """
    ordered, count, out = sorted(values), len(values), 0
    while sum(math.comb(count, heads) for heads in range(out + 2)) <= 0.025 * 2**count:
        out += 1
    return Ratio(median(ordered), ordered[out], ordered[-1 - out])


def verdict(time: Ratio, processor: Ratio) -> str:
    """Whether the training is at most ALLOWED times as long, in a sentence."""
    percent = f"{ALLOWED - 1:.0%}"
    for name, found in (("time", time), ("processor time", processor)):
        settled = (
            "" if name == "time" else "; the time did not settle it: repeat it on an idle machine, or with more --pairs"
        )
        if found.high <= ALLOWED:
            return f"at most {percent} slower: yes, by the {name}{settled}"
        if found.low > ALLOWED:
            return f"at most {percent} slower: no, by the {name}{settled}"
    return f"at most {percent} slower: not settled: repeat it on an idle machine, or with more --pairs"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--steps", type=int, default=50, help="in a block")
    parser.add_argument("--pairs", type=int, default=20, help="of blocks, with the page and without")
    parser.add_argument("--client", action="store_true", help="ask as the page does, without a browser")
    return parser.parse_args()


def measure(folder: Path, arguments) -> tuple[list[Block], list[Block]]:
    """The blocks without the page, and with it: they take turns, and one without it is the first and the last."""
    model = minillm.GPT2(minillm.GPT2Config(vocab_size=16, context_length=8, n_layer=1, n_head=1, d_model=8))
    studio = Studio(model, None, "a model that does nothing", folder)
    train.Session = Timed
    with served(studio) as (address, training), watcher(address, arguments.client) as watch:
        settings = {"max_steps": ENDLESS, "eval_interval": ENDLESS, "eval_windows": 8}
        training.start(studio, {"preset": arguments.preset, "name": "watched", "settings": settings})
        session = training._session
        alone, watched = [block(session, arguments.steps)], []
        for _ in range(arguments.pairs):
            with watch():
                watched.append(block(session, arguments.steps))
            alone.append(block(session, arguments.steps))
        return alone, watched


def block(session: Timed, steps: int) -> Block:
    """The next steps, after some that are not counted."""
    wait_for(session, SETTLED)
    first, started = len(session.done), (time.perf_counter(), time.process_time(), children_seconds())
    wait_for(session, steps + 1)
    last, ended = len(session.done), (time.perf_counter(), time.process_time(), children_seconds())
    seconds, processor, children = (after - before for before, after in zip(started, ended))
    times = session.done[first:last]
    return Block(median(b - a for a, b in zip(times, times[1:])), processor / (last - first), children / seconds)


def children_seconds() -> float:
    """Processor time of all processes below this one, so far; 0 where there is no /proc."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()  # a process's name may have spaces
        except OSError:  # it has ended meanwhile
            continue
        number = int(path.parent.name)
        parents[number] = int(fields[1])
        seconds[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return sum(seconds[number] for number in parents if number != os.getpid() and _is_below(number, parents))


def _is_below(number: int, parents: dict[int, int]) -> bool:
    while number in parents and number != os.getpid():
        number = parents[number]
    return number == os.getpid()


def wait_for(session: Timed, steps: int) -> None:
    last = len(session.done) + steps
    while len(session.done) < last:
        if session.is_over:
            raise RuntimeError(f"the training ended: {session.status()}")
        time.sleep(0.02)


@contextmanager
def served(studio: Studio) -> Iterator[tuple[str, train.Training]]:
    """A server for the studio in a thread: its address, and what answers the view."""
    listening = listen(0)
    port = listening.getsockname()[1]
    server = uvicorn_server(create_app(studio, "token", port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/token/", next(ender.__self__ for ender in studio.enders)
    finally:
        studio.end(time.monotonic() + 60)
        server.should_exit = True
        thread.join()


@contextmanager
def watcher(address: str, is_client: bool) -> Iterator[Callable]:
    """A function whose context is a block with the page open."""
    if is_client:
        yield lambda: client(address)
        return
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        yield lambda: opened(page, address)
        browser.close()


@contextmanager
def opened(page, address: str) -> Iterator[None]:
    page.goto(f"{address}#train")
    page.locator(".run-words li").first.wait_for()
    yield
    page.goto("about:blank")


@contextmanager
def client(address: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", POLL, address, str(EVERY)])
    yield
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()
