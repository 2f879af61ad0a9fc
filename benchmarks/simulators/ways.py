"""The planted faults in the way of simulators that run a kernel as a program of the host: threads in
several orders, g++'s sanitizers, valgrind.

cuda4cpu works like that. Its sources could not be had whole, so that what it offers is built anew
(threads.h): CUDA4CPU_SCHEDULE's orders, its warning of divergent barriers, AddressSanitizer and
UBSan, valgrind. Asynchronous copies are not there, as in cuda4cpu.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.simulators.faults import FAULTS, SOURCE

HERE = Path(__file__).parent
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1")
ORDERS = ("forward", "reverse", "random:1", "random:2", "random:3")
TIMEOUT = 20  # seconds: a kernel takes a hundredth of one
PLACE = re.compile(r"faults\.(?:cu|inc):(\d+)")
MISSING = {fault.name for fault in FAULTS if fault.name.startswith("double_buffer")}


def build(folder: Path) -> dict[str, Path]:
    """The programs: plain, with sanitizers, for valgrind (None where there is none)."""
    prepared = SOURCE.read_text().replace("extern __shared__ float all[];", "float* all = dynamic_shared;")
    (folder / "faults.inc").write_text(prepared)
    names = (f"KERNEL_NAME({fault.name})\n" for fault in FAULTS if fault.name not in MISSING)
    (folder / "kernels.inc").write_text("".join(names))
    ways = {"plain": ("-O2",), "sanitized": SANITIZERS}
    if shutil.which("valgrind"):
        ways["valgrind"] = ("-O1", "-DWITH_VALGRIND")
    made = {}
    for way, options in ways.items():
        made[way] = folder / way
        command = [
            "g++",
            "-std=c++17",
            "-g",
            "-w",
            *options,
            f"-I{folder}",
            f"-I{HERE}",
            HERE / "program.cpp",
            "-o",
            made[way],
        ]
        subprocess.run([*map(str, command)], check=True)
    return made


def run(programs: dict[str, Path], fault, faulty: bool) -> dict[str, str]:
    """What each way shows of a kernel: "" for nothing, else words; "line N" where it is known."""
    if fault.name in MISSING:
        return {way: "cannot" for way in ("orders", "sanitizers", "valgrind")}
    found = {"orders": _orders(programs["plain"], fault, faulty)}
    found["sanitizers"] = _said(_launch([programs["sanitized"]], fault, faulty, "forward"))
    if "valgrind" in programs:
        command = ["valgrind", "-q", "--error-exitcode=7", programs["valgrind"]]
        found["valgrind"] = _said(_launch(command, fault, faulty, "forward"))
    return found


def _orders(program: Path, fault, faulty: bool) -> str:
    """Whether results depend on the order of threads, or barriers differ, or nothing goes on."""
    results = [_launch([program], fault, faulty, ORDERS[0])]
    if _said(results[0]) != "hangs":
        results += [_launch([program], fault, faulty, order) for order in ORDERS[1:]]
    said = next((text for text in map(_said, results) if text), "")
    return said or ("results differ" if len({result.stdout for result in results}) > 1 else "")


def _launch(command, fault, faulty: bool, order: str):
    words = [*map(str, command), fault.name, str(int(faulty)), order, str(fault.grid), str(int(fault.fresh))]
    try:
        settings = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # of the program, which ends anyway
        return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, env=settings)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", "hangs")


def _said(result) -> str:
    log = result.stderr
    if log == "hangs":
        return "hangs"
    if "REPORT" not in log and not result.returncode:
        return ""
    place = PLACE.search(log)
    if place is None and result.returncode < 0:
        return f"ends by signal {-result.returncode}"
    kind = re.search(
        r"AddressSanitizer: ([\w-]+)|runtime error: ([^\n]*)|==\d+== ([A-Z][^\n]*)|REPORT \S+ ([^\n]*)", log
    )
    text = next(filter(None, kind.groups()), "") if kind else "reported"
    return f"line {place[1]}: {text}" if place else text
