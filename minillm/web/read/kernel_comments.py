"""The comments `// forward: ...` of CUDA sources.

They quote formulas, as the comments of these files state them: `// forward: Y = P V: ...`. What is
quoted, up to a colon with a space behind, has to be in another comment or in the code of the
operation's CUDA sources; spaces do not count, and a semicolon parts several formulas.
"""

from __future__ import annotations

import re

from minillm.web.read.operation import Operation, Source, kernel_sources

MARK = re.compile(r"^\s*// forward:(?P<text>.*)$")
COMMENT = re.compile(r"^\s*//")


def kernel_problems(operation: Operation) -> list[tuple[Source, int, str]]:
    """The comments that quote no formula: the source, the line, and what is wrong."""
    found = kernel_sources(operation).values()
    text = "\n".join(_without_quotations(source) for source in found)
    return [
        (source, line, f"`{quotation}` is in no other comment of {', '.join(operation.kernels)}, and not in the code")
        for source in found
        for line, quotation in _quotations(source)
        if not quotation or _squeezed(quotation) not in text
    ]


def _quotations(source: Source) -> list[tuple[int, str]]:
    """Line and formula, one by one."""
    marked = [(line, MARK.match(text)) for line, text in enumerate(source.lines, source.first)]
    return [
        (line, formula.strip())
        for line, match in marked
        if match
        for formula in match["text"].split(": ")[0].split(";")
    ]


def _without_quotations(source: Source) -> str:
    """The lines without spaces, slashes of comments, and those with quotations."""
    return "\n".join(_squeezed(COMMENT.sub("", line)) for line in source.lines if not MARK.match(line))


def _squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)
