"""README.md and docs/ as data: the fences of a page, its headings and its links.

The kinds of fences, by the word behind the three backquotes:

    console    lines that begin with `$ ` are commands, and the lines below each are its output.
               A line `...` matches any number of lines. A command with nothing below it has to
               succeed, and that is all.
    python     is executed, in the page's order; all python fences of a page share their names
    output     what the python fence above it prints, compared as the output of a command is
    text       is shown and not run: a sample of a long run, or a formula. It has no commands.

A fence of python or cuda whose first line is a comment `# file: layers.py` or `// file: add.cu` is
written to that file, in the folder in which the page is run. One whose first line is
`# from minillm/layers/layer_norm.py` is an excerpt: its lines are lines of that file, in order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = ("console", "python", "output", "text", "cuda")
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:#|//) file: (\S+)$")
EXCERPT = re.compile(r"(?:#|//) from (\S+)$")
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Fence:
    """kind: one of KINDS; line: that of the first line of text; page: the file's name."""

    kind: str
    text: str
    page: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the fence is written to, if it is one."""
        found = FILE.match(self.text.partition("\n")[0])
        return found[1] if found else None

    @property
    def excerpt(self) -> str | None:
        """The source file of which the fence shows lines, if it does."""
        found = EXCERPT.match(self.text.partition("\n")[0])
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a page with the lines of output shown below it."""

    text: str
    output: tuple[str, ...]
    place: str


def fences(text: str, page: str) -> list[Fence]:
    """The fences of a page's text, from the top."""
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        body = "\n".join(line[indent:] for line in match["body"].splitlines())
        line = text.count("\n", 0, match.start()) + 2
        found.append(Fence(match["kind"].strip() or "text", body, page, line))
    return found


def commands(fence: Fence) -> list[Command]:
    r"""The commands of a console fence; one that ends in `\` goes on in the next line.

    >>> commands(Fence("console", "$ a \\\n    b\nout\n$ c", "page", 7))
    [Command(text='a b', output=('out',), place='page:7'), Command(text='c', output=(), place='page:10')]
    """
    found: list[list] = []
    lines = iter(enumerate(fence.text.splitlines(), start=fence.line))
    for number, line in lines:
        if line.startswith("$ "):
            text = line[2:]
            while text.endswith("\\"):
                text = text[:-1].rstrip() + " " + next(lines)[1].strip()
            found.append([text, [], number])
        elif found:
            found[-1][1].append(line)
        else:
            raise ValueError(f"{fence}: a console fence begins with a command, `$ ...`")
    return [
        Command(text, tuple(without_blank_ends(output)), f"{fence.page}:{number}") for text, output, number in found
    ]


def missing_line(excerpt: str, source: str) -> str | None:
    """The first line of an excerpt, below its comment, that is not the next line of the source.

    After a line `...` it may be any later one, as the first line may.

    >>> missing_line("# from a.py\\nb\\nc\\n...\\ne", "a\\nb\\nc\\nd\\ne") is None
    True
    >>> missing_line("# from a.py\\nb\\nd", "a\\nb\\nc\\nd")
    'd'
    """
    lines, at, is_next = source.splitlines(), 0, False
    for line in excerpt.splitlines()[1:]:
        if line.strip() == "...":
            is_next = False
            continue
        places = [at] if is_next else range(at, len(lines))
        at = next((place for place in places if lines[place : place + 1] == [line]), None)
        if at is None:
            return line
        at, is_next = at + 1, True
    return None


def without_blank_ends(lines: list[str]) -> list[str]:
    """Lines without the empty ones at both ends."""
    while lines and not lines[0].strip():
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def prose(text: str) -> str:
    """A page's text without its fences, line for line."""
    return FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them.

    >>> sorted(anchors("# One, two\\n## `a_b` & c"))
    ['a_b--c', 'one-two']
    """
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """The targets of all links and pictures of a page, those in code left out."""
    return LINK.findall(re.sub(r"`[^`\n]*`", lambda code: "`" * len(code[0]), prose(text)))
