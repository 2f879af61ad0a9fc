"""python -m benchmarks.simulators: docs/simulators.md anew.

python -m benchmarks.simulators --write     runs every simulator, and keeps what each showed in
                                            benchmarks/results/simulators.json; needs numba and valgrind
python -m benchmarks.simulators             prints the page from that file
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from benchmarks.simulators import ours, ways
from benchmarks.simulators.faults import FAULTS
from benchmarks.simulators.page import RESULTS, page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="run every simulator")
    if parser.parse_args().write:
        RESULTS.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    print(page(json.loads(RESULTS.read_text(encoding="utf-8"))), end="")


def measured() -> dict:
    """What every simulator showed of every fault, and of the kernel without it."""
    found = {fault.name: {"ours": [ours.noticed(fault, faulty) for faulty in (True, False)]} for fault in FAULTS}
    with tempfile.TemporaryDirectory() as folder:
        programs = ways.build(Path(folder))
        for fault in FAULTS:
            print(fault.name, file=sys.stderr, flush=True)
            faulty, sound = (ways.run(programs, fault, each) for each in (True, False))
            found[fault.name] |= {way: [faulty[way], sound[way]] for way in faulty}
    of_numba = _of_numba()
    for fault in FAULTS:
        shown = of_numba["faults"].get(fault.name)
        found[fault.name]["numba"] = [shown["faulty"], shown["sound"]] if shown else ["cannot", "cannot"]
    versions = {"g++": _version("g++"), "valgrind": _version("valgrind"), "numba": of_numba["version"]}
    versions |= {"Python": platform.python_version()}
    for each in found.values():
        each["ours"] = [re.sub(r"^.*?faults\.cu:(\d+): \S+,? ?", r"line \1: ", text) for text in each["ours"]]
    return {"date": date.today().isoformat(), "versions": versions, "faults": found}


def _of_numba() -> dict:
    command = [sys.executable, "-m", "benchmarks.simulators.numba_faults"]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    )
    return json.loads(result.stdout)


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"\d+\.\d+(?:\.\d+)?", said.splitlines()[0])[0]


if __name__ == "__main__":
    main()
