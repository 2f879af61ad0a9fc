"""python -m minillm.kernels.standin [OPTIONS] (-m MODULE | SCRIPT) [ARGUMENTS...]

Runs a program with the stand-in in the place of the GPU. `minillm simulate` does that for CuPy
programs; this is for those of minillm, where nothing is computed unless --compute says so.

--compute      carry out launches and products in host memory; else they are only checked and
               recorded
--capability   the compute capability of the GPU, 9.0 by default
--counts       at the end, print how many launches, products, copies and waits there were
"""

from __future__ import annotations

import argparse
import os
import sys

from minillm.errors import UserError
from minillm.kernels.standin.environment import attach_as_told
from minillm.kernels.standin.recording import counts
from minillm.kernels.standin.script import Program, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", action="store_true")
    parser.add_argument("--capability", default="9.0")
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("-m", dest="module", help="the module to run, as python -m does")
    own = sys.argv[1:]
    beginning = _program_starts(own)
    chosen, rest = parser.parse_args(own[:beginning]), own[beginning:]
    if not chosen.module and not rest:
        parser.error("name a module (-m) or a script to run")
    _append_to("PYTEST_PLUGINS", "minillm.kernels.standin.plugin", ",")
    os.environ["GPU_STANDIN_CAPABILITY"] = chosen.capability
    os.environ["GPU_STANDIN_COMPUTE"] = "1" if chosen.compute else ""
    name, arguments = (chosen.module, rest) if chosen.module else (rest[0], rest[1:])
    try:
        attach_as_told()
        start(Program(name, tuple(arguments), is_module=bool(chosen.module)))
    except UserError as error:
        print(f"minillm.kernels.standin: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        if chosen.counts:
            print(*(f"{name} {number:,}" for name, number in counts().items()), sep=", ", file=sys.stderr)


def _append_to(variable: str, value: str, separator: str) -> None:
    """One more value in a variable of the environment."""
    os.environ[variable] = separator.join(filter(None, [os.environ.get(variable), value]))


def _program_starts(words: list[str]) -> int:
    """Where the program's own arguments begin: after `-m MODULE`, or at the first word that is no
    option.
    """
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
