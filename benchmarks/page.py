"""python -m benchmarks.page: how fast the page is, in a real browser (extra test-web and chromium).

views   Play with the lessons' small model: milliseconds to the first paint, and until the view can be used; bytes that
        the browser fetched.
token   One more token in Write, from the press of the button to the stages on the screen: with the default settings, and
        with every kind of stage in use.
pages   Read: seconds in which all pages are made; of each the bytes, and milliseconds to the first paint, from disk.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from benchmarks import common
from minillm.web.play.app import create_app
from minillm.web.play.opening import open_studio
from minillm.web.play.server import listen, uvicorn_server

VIEWS = ("write", "backward", "train", "kernel", "tokens")
PAINT = """new Promise((resolve) => new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) resolve(entry.startTime);
}).observe({ type: "paint", buffered: true }))"""
ONE_TOKEN = """() => new Promise((resolve) => {
  const tokens = () => document.querySelectorAll("#text .token").length;
  const [before, started] = [tokens(), performance.now()];
  new MutationObserver((changes, observer) => {
    if (tokens() === before) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - started)));
  }).observe(document.getElementById("text"), { childList: true, subtree: true });
  for (const button of document.querySelectorAll("button")) if (button.textContent === "One token") button.click();
})"""
ALL_STAGES = {
    "top_k": "100",
    "top_p": "0.95",
    "min_p": "0.001",
    "typical_p": "0.95",
    "epsilon_cutoff": "0.0001",
    "eta_cutoff": "0.0001",
    "top_n_sigma": "4",
    "xtc_probability": "0.1",
    "repetition_penalty": "1.1",
    "presence_penalty": "0.1",
    "frequency_penalty": "0.1",
}
FETCHED = "performance.getEntries().filter((e) => 'transferSize' in e).reduce((sum, e) => sum + e.transferSize, 0)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="of each measurement; the median counts")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        address = serve(Path(folder) / "runs")
        results = {
            "views": {view: of_view(browser, f"{address}#{view}", view, arguments.repeats) for view in VIEWS},
            "token": of_token(browser, f"{address}#write", arguments.repeats),
            "token, all stages": of_token(browser, f"{address}#write", arguments.repeats, ALL_STAGES),
            "pages": of_pages(browser, Path(folder) / "pages", arguments.repeats),
        }
        browser.close()
    report(results)
    if arguments.write:
        common.write_results("page", results)


def serve(runs: Path) -> str:
    """The address of Play with the lessons' small model, served by a thread of this process."""
    listening = listen(0)
    port = listening.getsockname()[1]
    server = uvicorn_server(create_app(open_studio(None, runs), "token", port))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    return f"http://127.0.0.1:{port}/token/"


def of_view(browser, address: str, view: str, repeats: int) -> dict:
    """Medians for one view, each time in a fresh profile."""
    paints, ready, fetched = [], [], 0
    for _ in range(repeats):
        with browser.new_context() as context:
            page = context.new_page()
            started = time.perf_counter()
            page.goto(address)
            page.locator(f"#{view} >> css=button, textarea, select").first.wait_for()
            ready.append(1000 * (time.perf_counter() - started))
            paints.append(page.evaluate(PAINT))
            fetched = page.evaluate(FETCHED)
    return {"paint_ms": median(paints), "ready_ms": median(ready), "bytes": fetched}


def of_token(browser, address: str, repeats: int, settings: dict[str, str] | None = None) -> dict:
    """Milliseconds from the press of the button to the frame that shows the new token and its stages."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.locator("#text").wait_for()
        for name, value in (settings or {}).items():
            page.locator(f"#set-{name}").fill(value)
        times = [page.evaluate(ONE_TOKEN) for _ in range(repeats + 1)]
        stages = page.locator("th[scope=col]").count()
    return {"ms": median(times[1:]), "worst_ms": max(times[1:]), "columns": stages}


def of_pages(browser, folder: Path, repeats: int) -> dict:
    """How long Read takes, and its slowest and its largest page."""
    from minillm.web.read.pages import write_pages

    started = time.perf_counter()
    write_pages(folder)
    seconds = time.perf_counter() - started
    pages = {}
    for path in sorted(folder.glob("*.html")):
        paints = []
        for _ in range(repeats):
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(path.as_uri())
                paints.append(page.evaluate(PAINT))
        pages[path.stem] = {"paint_ms": median(paints), "bytes": path.stat().st_size}
    return {"seconds_for_all": seconds, "pages": pages}


def report(results: dict) -> None:
    """Print the figures."""
    for view, row in results["views"].items():
        print(f"{view:<12} paint {row['paint_ms']:5.0f} ms  ready {row['ready_ms']:5.0f} ms  {row['bytes']:8,} bytes")
    for name in ("token", "token, all stages"):
        row = results[name]
        print(f"{name}: {row['ms']:.0f} ms, at worst {row['worst_ms']:.0f}, with {row['columns']} columns")
    pages = results["pages"]["pages"]
    slowest, largest = (max(pages, key=lambda name: pages[name][what]) for what in ("paint_ms", "bytes"))
    print(f"{len(pages)} pages in {results['pages']['seconds_for_all']:.1f} s")
    print(f"slowest {slowest} {pages[slowest]['paint_ms']:.0f} ms; largest {largest} {pages[largest]['bytes']:,} bytes")


if __name__ == "__main__":
    main()
