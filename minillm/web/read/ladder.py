"""The attention ladder as a table: what each rung adds, and what it gains.

The words and numbers are those of the docstring of minillm/kernels/attention, which a test compares
with the kernels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

from minillm.kernels import attention
from minillm.web.read.operation import Operation

GROUP = "attention ladder"
ROW = re.compile(r"^ {4}(\w+) {2,}(\S.*?) {2,}(\d+) +([\d,]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Rung:
    """One rung: its idea, the lines of its .cu file, and the bytes of global memory that forward
    moves.
    """

    name: str
    idea: str
    lines: int
    bytes: int


def rungs() -> list[Rung]:
    """The rungs from the first on, as the docstring of minillm/kernels/attention has them."""
    found = ROW.findall(attention.__doc__)
    return [Rung(name, idea, int(lines), int(moved.replace(",", ""))) for name, idea, lines, moved in found]


def ladder_html(operation: Operation) -> str:
    """The table for the page of a rung, which is marked; "" for another operation."""
    if operation.group != GROUP:
        return ""
    before, rows = None, []
    for rung in rungs():
        name = f"attention_{rung.name}"
        gain = "" if before is None else _gain(before, rung)
        is_here = name == operation.name
        here = ' aria-current="page"' if is_here else ""
        label = escape(rung.name) if is_here else f'<a href="{name}.html">{escape(rung.name)}</a>'
        rows.append(
            f'<tr{here}><th scope="row">{label}</th><td>{escape(rung.idea)}</td><td class="number">{rung.lines}</td>'
            f'<td class="number">{rung.bytes:,}</td><td class="number">{gain}</td></tr>'
        )
        before = rung
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="The ladder"><table class="ladder-table">'
        '<caption class="sr-only">The attention ladder</caption><thead><tr><th scope="col">rung</th>'
        '<th scope="col">idea</th><th scope="col" class="number">lines</th><th scope="col" class="number">bytes</th>'
        f'<th scope="col" class="number">gain</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="quiet ladder-note">Bytes: of global memory, forward, one head of 128 tokens, D = 64, causal. '
        "Gain: of bytes over the rung before.</p>"
    )


def _gain(before: Rung, rung: Rung) -> str:
    return f"{before.bytes / rung.bytes:.3g}x"
