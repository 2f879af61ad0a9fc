"""python -m benchmarks.page_pictures FOLDER: the pictures of the page in docs/ (extras test-web and plots, chromium).

Each view is brought to a state that shows what it is for, and is taken at 1280 and at 390 pixels. The small pictures are
put side by side in one. Look at them before they are committed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.page import serve
from minillm.web.read.pages import write_pages

WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 780}
COLOURS, GAP = 128, 12  # of a picture; pixels between two small ones
SECONDS = 180  # for any of the steps, on a busy machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        os.chdir(work)  # so that a picture shows runs/NAME
        address = serve(Path("runs"))
        write_pages(Path("read"), ["layer_norm", "sampler"])
        places = {"read": Path("read/layer_norm.html").resolve().as_uri()}
        places["sampler"] = Path("read/sampler.html").resolve().as_uri()
        places |= {view: f"{address}#{view}" for view in ("write", "backward", "train", "kernel", "tokens")}
        small = []
        for name, place in places.items():
            page = browser.new_page(viewport=WIDE)
            page.set_default_timeout(1000 * SECONDS)
            page.goto(place)
            prepare(name, page)
            save(image_of(page), folder / f"page-{name}.png")
            page.set_viewport_size(NARROW)
            small.append(image_of(page))
            page.close()
        browser.close()
    save(side_by_side(small), folder / "page-narrow.png")


def prepare(name: str, page: Page) -> None:
    """Bring a view to the state of its picture."""
    if name == "read":
        page.locator("html[data-ready]").wait_for()
        page.locator(".backward .statement", has_text="dweight = ones @ product").first.hover()
    if name == "write":
        for setting, value in (("top_k", "40"), ("top_p", "0.9"), ("min_p", "0.02")):
            page.locator(f"#set-{setting}").fill(value)
        for written in range(2, 16):
            page.get_by_role("button", name="One token", exact=True).click()
            page.locator("#text .token").nth(written).wait_for()
    if name == "backward":
        page.get_by_text("dloss / dp").first.wait_for()
    if name == "train":
        for optimizer in ("adamw", "sgd"):
            train(page, optimizer)
    if name == "kernel":
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("sectors").first.wait_for()
        page.get_by_role("button", name="Run", exact=True).and_(page.locator(":enabled")).wait_for()
    if name == "tokens":
        page.get_by_text("Merges one by one").wait_for()
    page.wait_for_timeout(1500)  # what is drawn after a while: thumbnails, curves


def train(page: Page, optimizer: str) -> None:
    """A small run from the form, from the start to the end."""
    page.get_by_label("Name", exact=True).fill(optimizer)
    page.get_by_label("Optimizer", exact=True).select_option(optimizer)
    for label, value in (("Layers", "1"), ("Width", "64"), ("Steps", "160"), ("Evaluate every", "40")):
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator(".session-state", has_text=f"{optimizer}: finished").wait_for()


def image_of(page: Page) -> Image.Image:
    """What the window shows."""
    page.wait_for_timeout(500)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """One picture of several of the same height."""
    width = sum(image.width + GAP for image in images) - GAP
    joined, left = Image.new("RGB", (width, images[0].height), "#808080"), 0
    for image in images:
        joined.paste(image, (left, 0))
        left += image.width + GAP
    return joined


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG of few colours, which is a third as large."""
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
