"""python -m benchmarks.page_overhead: what watching a training in the browser costs it.

A training runs behind `minillm play`'s server; blocks of steps with the view Train open in chromium take turns with blocks
without it, so that both see the same machine. Printed: the median time of a step in either kind of block, the processor time
that the process of the training takes for a step, which is to be judged by on a busy machine, and the ratios, median over the
pairs of blocks. Chromium runs on the same cores: its own drawing is part of the first ratio. Needs the extra test-web and
chromium; --client polls as the page does, without a browser.

    python -m benchmarks.page_overhead
    python -m benchmarks.page_overhead --client --steps 50 --pairs 4
"""

from __future__ import annotations

import argparse
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

import minillm
from minillm.web.play import train
from minillm.web.play.app import create_app
from minillm.web.play.server import listen, uvicorn_server
from minillm.web.play.studio import Studio
from minillm.web.play.training_session import Session

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


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        pairs = measure(Path(folder), arguments)
    print(f"{arguments.pairs} pairs of {arguments.steps} steps{'alone':>15} {'with the page':>16} {'ratio':>7}")
    for index, name in enumerate(("time of a step", "processor time of a step")):
        alone, watched = ([pair[kind][index] for pair in pairs] for kind in (0, 1))
        ratio = median(second / first for first, second in zip(alone, watched))
        print(f"{name:24} {1e3 * median(alone):11.2f} ms {1e3 * median(watched):13.2f} ms {ratio:7.3f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--steps", type=int, default=200, help="in a block")
    parser.add_argument("--pairs", type=int, default=10, help="of blocks")
    parser.add_argument("--client", action="store_true", help="ask as the page does, without a browser")
    return parser.parse_args()


def measure(folder: Path, arguments) -> list[tuple]:
    """For each pair of blocks: (alone, with the page), each as `block` gives it."""
    model = minillm.GPT2(minillm.GPT2Config(vocab_size=16, context_length=8, n_layer=1, n_head=1, d_model=8))
    studio = Studio(model, None, "a model that does nothing", folder)
    train.Session = Timed
    with served(studio) as (address, training), watcher(address, arguments.client) as watch:
        settings = {"max_steps": ENDLESS, "eval_interval": ENDLESS, "eval_windows": 8}
        training.start(studio, {"preset": arguments.preset, "name": "watched", "settings": settings})
        session = training._session
        pairs = []
        for _ in range(arguments.pairs):
            alone = block(session, arguments.steps)
            with watch():
                pairs.append((alone, block(session, arguments.steps)))
        return pairs


def block(session: Timed, steps: int) -> tuple[float, float]:
    """The median seconds of the next steps, and the mean of the processor's seconds."""
    wait_for(session, SETTLED)
    first, used = len(session.done), time.process_time()
    wait_for(session, steps + 1)
    last, used = len(session.done), time.process_time() - used
    times = session.done[first:last]
    return median(b - a for a, b in zip(times, times[1:])), used / (last - first)


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
