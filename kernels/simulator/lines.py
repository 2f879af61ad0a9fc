"""From an instruction's address to the line of the kernel's source, by the debugging
information.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SYSTEM = re.compile(r"/usr/(?:local/)?(?:include|lib)/")  # headers of C++


def source_lines(library: Path, addresses: list[int]) -> dict[int, str]:
    """The file and line, joined by a colon, for each address: those of the innermost call that is
    in neither
    the simulator's own headers nor the system's."""
    if not addresses:
        return {}
    unique = sorted(set(addresses))
    command = ["addr2line", "-a", "-i", "-e", str(library), *map(hex, unique)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for block in re.split(r"^(?=0x)", output, flags=re.MULTILINE)[1:]:
        address, *places = block.split("\n")
        frames = [os.path.normpath(re.sub(r" \(discriminator \d+\)$", "", place)) for place in places if place]
        own = [frame for frame in frames if in_kernel(frame)]
        found[int(address, 16)] = (own or frames)[0]
    return found


def in_kernel(place: str) -> bool:
    """Whether a file and line is known, and neither in the simulator's own headers nor in the
    system's.
    """
    file = place.rpartition(":")[0]
    return (
        file not in ("", "??", "unit.cpp")
        and not file.startswith("<kernel ")
        and not Path(file).is_relative_to(HERE)
        and not SYSTEM.match(file)
    )
