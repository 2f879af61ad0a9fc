"""python -m benchmarks.profile_step: where a step of the default preset spends its time, as minillm train --profile says."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import write_results
from minillm.errors import UserError

HEAD, END = re.compile(r"^part +calls"), re.compile(r"^the step: ")
SHOWN = ("matrix product", "elementwise", "between: Python")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/profile_step.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "minillm", "train", "--profile", "--max-steps", "12", "--eval-windows", "2"]
        command += ["--sample-tokens", "0", "--out", str(Path(folder) / "run")]
        environment = {**os.environ, "COLUMNS": "140"}  # no line is folded
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"minillm train ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    lines = (done.stdout + done.stderr).splitlines()
    kept = [line.rstrip() for line in lines if HEAD.match(line) or END.match(line) or line.startswith(SHOWN)]
    print("\n".join(kept))
    if arguments.write:
        write_results("profile_step", {"lines": kept})


if __name__ == "__main__":
    main()
