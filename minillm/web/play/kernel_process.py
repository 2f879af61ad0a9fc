"""The process in which the page runs a kernel: it may crash, or never end, and the server goes on.

It takes a request, one line of JSON, from standard input, and writes events, a line of JSON each,
into the pipe whose number is its argument. What the kernel prints goes to standard output. Where
standard input ends, the page or its server is gone: then it ends, and takes the compiler along.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path

GRACE = 0.3  # seconds to tidy up in before it is killed
LINE = re.compile(r"[^\s:]+\.cuh?:(\d+): ")


def main() -> None:
    """Run the request on standard input."""
    events = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", buffering=1)
    request = json.loads(sys.stdin.readline())
    _limit(resource.RLIMIT_CORE, 0)  # a crash leaves no file
    _limit(resource.RLIMIT_DATA, request["memory"])  # of the compiler, too; addresses alone cost nothing
    _limit(resource.RLIMIT_FSIZE, request["memory"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a compiler's temporary folder is taken away
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(**event) -> None:
        events.write(json.dumps(event) + "\n")

    answer = _answer(request, lambda name: tell(event="compiling" if name else "running", file=name))
    tell(**answer)


def _answer(request: dict, progress) -> dict:
    from minillm.checks.simulate import Way
    from minillm.errors import UserError
    from minillm.kernels.simulator import SimulatorError
    from minillm.kernels.simulator.errors import CompilerExhausted
    from minillm.web.play.kernel_shown import shown

    way = Way(request["mode"], request["order"], request["seed"], request["watch"], progress)
    try:
        return {"event": "result", **shown(_simulation(request, way))}
    except CompilerExhausted as error:
        return {"event": "refused", "text": f"{error} ({_allowed(request)})", "line": None}
    except (UserError, SimulatorError, TypeError, ValueError) as error:
        found = LINE.match(str(error))
        return {"event": "refused", "text": str(error), "line": int(found[1]) if found else None}
    except MemoryError as error:
        text = f"{str(error) or 'there is no room'} ({_allowed(request)}): choose smaller arrays, or mode profile"
        return {"event": "refused", "text": text, "line": None}


def _simulation(request: dict, way):
    from minillm.checks.simulate import FileRun, parse_dimensions, parse_sizes, simulate_case, simulate_source

    if request["kernel"]:
        size = [f"{key}={number}" for key, number in request["size"].items()]
        return simulate_case(request["kernel"], parse_sizes(request["kernel"], size), way)
    launch = FileRun(
        parse_dimensions("--grid", [request["grid"]], 1),
        parse_dimensions("--block", [request["block"]], 32),
        request["arguments"],
        request["shared"],
        expect=tuple(request["expect"]),
    )
    options = [f"-I{folder}" for folder in header_folders()]
    return simulate_source(request["source"], request["file"], request["name"], launch, way, options)


def header_folders() -> list[Path]:
    """Where the headers of minillm's own kernels are, so that a copy of one of them compiles."""
    from minillm.kernels.attention import flash

    folder = Path(flash.__file__).parent
    return [folder, folder.parent]


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _allowed(request: dict) -> str:
    return f"a kernel of the page may fill {request['memory'] / 2**30:.1f} GiB"


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
