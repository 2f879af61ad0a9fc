"""python standin/run.py [--compute] [--capability 9.0] [--counts] (-m MODULE | SCRIPT) [ARGUMENTS...]

Runs a program with the stand-in in the place of the GPU.

--compute      carry out launches and products in host memory (computing.py); else they are only checked and recorded
--capability   the compute capability of the GPU, 9.0 by default
--counts       at the end, print how many launches, products, copies and waits there were
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", action="store_true")
    parser.add_argument("--capability", default="9.0")
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("-m", dest="module", help="the module to run, as python -m does")
    own = sys.argv[1:]
    program = _program_starts(own)
    chosen = parser.parse_args(own[:program])
    rest = own[program:]
    if not chosen.module and not rest:
        parser.error("name a module (-m) or a script to run")

    _append_to("PYTEST_PLUGINS", "minillm.kernels.standin.plugin", ",")
    os.environ["GPU_STANDIN_CAPABILITY"] = chosen.capability
    os.environ["GPU_STANDIN_COMPUTE"] = "1" if chosen.compute else ""

    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # this folder may be shared
    from minillm.errors import UserError
    from minillm.kernels.standin.attach import attach_as_told

    try:
        attach_as_told()
        sys.dont_write_bytecode = writing
    except UserError as error:
        raise SystemExit(f"run.py: {error}") from None
    try:
        if chosen.module:
            sys.argv = [chosen.module, *rest]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(chosen.module, run_name="__main__", alter_sys=True)
        else:
            sys.argv = rest
            sys.path.insert(0, str(Path(rest[0]).resolve().parent))
            runpy.run_path(rest[0], run_name="__main__")
    finally:
        if chosen.counts:
            from minillm.kernels.standin.recording import counts

            print(*(f"{name} {number:,}" for name, number in counts().items()), sep=", ", file=sys.stderr)


def _append_to(variable: str, value: str, separator: str) -> None:
    """One more value in a variable of the environment."""
    os.environ[variable] = separator.join(filter(None, [os.environ.get(variable), value]))


def _program_starts(words: list[str]) -> int:
    """Where the program's own arguments begin: after `-m MODULE`, or at the first word that is no option."""
    position = 0
    while position < len(words):
        if words[position] == "-m":
            return position + 2
        if words[position] == "--capability":
            position += 1
        elif not words[position].startswith("-"):
            return position
        position += 1
    return position


if __name__ == "__main__":
    main()
