"""The view Kernel: a kernel in the simulator, its traffic by line, its threads and their faults.

Numbers are those of `minillm simulate --profile` and `--check`, which runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import math
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from starlette.routing import Route

from minillm.checks.cases import KERNELS
from minillm.errors import UserError
from minillm.kernels.simulator import compiler_available
from minillm.kernels.simulator.settings import ORDERS
from minillm.web.play.answers import answer, stream
from minillm.web.play.arguments import choice, text, texts, whole
from minillm.web.play.kernel_apart import run_apart
from minillm.web.play.kernel_examples import EXAMPLES
from minillm.web.play.studio import Studio, Worker

LARGEST_SOURCE = 200_000  # characters
LARGEST_SIZE, LARGEST_PROBLEM = 65_536, 2**20  # of one number of a case's size, and of their product
LARGEST_ARRAYS = 2**26  # elements of a kernel's arguments together
SECONDS = (1, 10, 60)  # that a kernel may run: at least, by default, at most
FILE = re.compile(r"[\w-][\w.-]{0,60}\.cuh?")
SHAPE = re.compile(r"\[([\d,]+)\]")


def routes(studio: Studio) -> list[Route]:
    """POST /kernel/list, /kernel/source, /kernel/run"""
    worker = Worker("kernels")
    return [
        answer("/kernel/list", studio, listed, worker),
        answer("/kernel/source", studio, source_of, worker),
        stream("/kernel/run", studio, run, worker),
    ]


def listed(studio: Studio, arguments: dict) -> dict:
    """The kernels of minillm, example sources, and why none can be run here, or ""."""
    kernels = [
        {"name": name, "summary": kernel.summary, "size": dict(zip(case.dimensions, case.simulate))}
        for name, (case, kernel) in KERNELS.items()
    ]
    return {"kernels": kernels, "examples": EXAMPLES, "problem": problem(), "orders": ORDERS, "seconds": SECONDS}


def source_of(studio: Studio, arguments: dict) -> dict:
    """The main file of a kernel of minillm."""
    name = choice(arguments, "kernel", list(KERNELS))
    path = Path(importlib.util.find_spec(KERNELS[name][1].module).origin).with_suffix(".cu")
    return {"file": path.name, "source": path.read_text(encoding="utf-8")}


def run(studio: Studio, arguments: dict) -> Iterator[dict]:
    """Events of a run, as run_apart yields them."""
    request = checked(arguments)
    seconds = whole(arguments, "seconds", SECONDS[0], SECONDS[2], SECONDS[1])
    if found := problem():
        raise UserError(found)
    return run_apart(request, seconds)


def problem() -> str:
    """Why kernels cannot be simulated on this machine, or ""."""
    if platform.system() != "Linux":
        return f"the CUDA simulator needs Linux and g++, and this is {platform.system()}: run minillm play in a Linux container"
    if not compiler_available():
        return "the CUDA simulator needs g++, which is missing: apt install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora)"
    return ""


def checked(arguments: dict) -> dict:
    """The request for kernel_process.py.

    Raises UserError for what is no run of a kernel, or too large for a page.
    """
    request = {
        "mode": choice(arguments, "mode", ["profile", "check"], "profile"),
        "order": choice(arguments, "order", list(ORDERS), ORDERS[0]),
        "seed": whole(arguments, "seed", 0, 2**32 - 1, 0),
        "watch": whole(arguments, "watch", 0, 2**31 - 1, 0),
        "kernel": "",
    }
    if arguments.get("kernel"):
        name = choice(arguments, "kernel", list(KERNELS))
        return {**request, "kernel": name, "size": _size(name, arguments.get("size") or {})}
    launched = {
        "source": text(arguments, "source", LARGEST_SOURCE),
        "file": text(arguments, "file", 70, "kernel.cu"),
        "name": text(arguments, "name", 300, "").strip(),
        "grid": text(arguments, "grid", 60, "1"),
        "block": text(arguments, "block", 60, "32"),
        "arguments": texts(arguments, "arguments", 64, 200),
        "shared": whole(arguments, "shared", 0, 2**20, 0),
        "expect": texts(arguments, "expect", 16, 500),
    }
    if not FILE.fullmatch(launched["file"]):
        raise UserError(f'"{launched["file"]}" is no name of a file such as saxpy.cu')
    elements = sum(
        math.prod(map(int, filter(None, shape.split(","))))
        for each in launched["arguments"]
        for shape in SHAPE.findall(each)
    )
    if elements > LARGEST_ARRAYS:
        raise UserError(f"{elements:,} elements in all arrays are more than the page takes ({LARGEST_ARRAYS:,})")
    return {**request, **launched}


def _size(name: str, given) -> dict:
    case = KERNELS[name][0]
    if not isinstance(given, dict) or not set(given) <= set(case.dimensions):
        raise UserError(f"{name} has the sizes {', '.join(case.dimensions)}")
    size = {key: whole(given, key, 1, LARGEST_SIZE, default) for key, default in zip(case.dimensions, case.simulate)}
    if math.prod(size.values()) > LARGEST_PROBLEM:
        raise UserError(
            f"{' x '.join(map(str, size.values()))} is more than the page takes: use minillm simulate {name}"
        )
    return size
