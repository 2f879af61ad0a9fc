"""The name of the array in a report of an index beyond its bound: g++ knows the array's
type only.
"""

from __future__ import annotations

import re

BEYOND = re.compile(r"index (-?\d+) is beyond the bound of the array '(\w[\w: ]*?) ?\[(\d+)\]((?:\[\d+\])*)'")
DECLARATION = re.compile(r"(?:^|[;{}])\s*(?!return\b)(?:\w+\s+)+(\w+\s*\[[^;]*);", re.MULTILINE)


def with_array_name(text: str, line: str, source: str) -> str:
    """The report with the array's name and length, where the source shows which array it is.

    text: the report. line: the source line that it is about. source: the file, with its
    declarations.

    >>> text = "index 128 is beyond the bound of the array 'float [128]'"
    >>> with_array_name(text, "y[0] = part[i];", "__shared__ float part[128];")
    'index 128 is beyond the bound of part, which has 128 elements'
    """
    found = BEYOND.search(text)
    if not found:
        return text
    names = {name for each in DECLARATION.findall(source) for name in re.findall(r"(\w+)\s*\[", each)}
    used = list(dict.fromkeys(name for name in re.findall(r"(\w+)\s*\[", line) if name in names))
    if len(used) != 1:
        return text
    return text.replace(found[0], f"index {found[1]} is beyond the bound of {used[0]}, which has {found[3]} elements")
