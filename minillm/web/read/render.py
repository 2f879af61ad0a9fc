"""The page of an operation as HTML: derivation, forward and backward, CUDA.

Lines are plain text in the file; read.js colours them and ties them together (look/code.js).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import minillm
from minillm.web.page import LOOK, document
from minillm.web.read.layout import Kernel, Part, assigned_names, columns, functions
from minillm.web.read.operation import Operation, Pair, Seen, Source, Tie, kernel_sources, sources

HERE = Path(__file__).parent
ROOT = Path(minillm.__file__).parents[1]
STYLES = [LOOK / "code.css", HERE / "read.css"]
SCRIPTS = [LOOK / "dom.js", LOOK / "code.js", HERE / "browser.js", HERE / "read.js"]
SHOWN = 4  # values of an intermediate
NAME = re.compile(r"[A-Za-z]+\^?")  # in a formula: x in x_i, m^


@dataclass(frozen=True)
class Facts:
    """What is known of an operation. rows: for each pair.

    symbols: column ("derivation", "code" or "kernel") -> spelling there -> the symbol that it is.
    """

    ties: list[Tie]
    rows: list[list]
    seen: list[Seen]
    symbols: dict[str, dict[str, str]]
    ladder: str = ""  # HTML of the table of rungs
    neighbours: tuple[Operation | None, Operation | None] = field(default=(None, None))


def page(operation: Operation, facts: Facts) -> str:
    """The whole HTML file."""
    ladder = " ladder" if facts.ladder else ""
    kernels = _kernels_html(operation, facts)
    body = f"""
<a class="skip" href="#sheet">To the code</a>
<header class="bar">
<nav aria-label="Pages">{_way(facts.neighbours[0], "previous", "←")}<a href="index.html" id="index">All pages</a>\
{_way(facts.neighbours[1], "next", "→")}</nav>
<h1>{escape(operation.title)}</h1>
<div class="tools">
<div class="row" role="group" aria-label="Columns" id="columns">{_toggles(bool(kernels))}</div>
<button type="button" id="numbers" aria-pressed="false" title="Numbers of a small real pass (n)">Numbers</button>
<button type="button" id="order" aria-pressed="false" title="Backward in the order of its file (o)">File order</button>
<button type="button" id="theme" title="Light or dark (t)">Light or dark</button>
<button type="button" id="help" title="Keys (?)" aria-haspopup="dialog">Keys</button>
</div>
</header>
{_symbols_html(facts.symbols)}
<main id="sheet" class="sheet{ladder}{"" if kernels else " bare"}" tabindex="-1">
<section class="derivation" aria-labelledby="derivation-title" tabindex="0">
<h2 id="derivation-title">Derivation</h2>
{facts.ladder}{derivation_html(operation.derivation, facts.symbols["derivation"])}
</section>
<section class="pairs" aria-labelledby="pairs-title" tabindex="0">
<h2 id="pairs-title" class="sr-only">Forward and backward</h2>
{"".join(_pair_html(operation, facts, at) for at in range(len(operation.pairs)))}
</section>
{kernels}
</main>
<div id="partner" hidden></div>
<p id="said" class="sr-only" role="status"></p>
{KEYS}
"""
    data = {
        "symbols": {column: facts.symbols[column] for column in ("code", "kernel")},
        "previous": facts.neighbours[0] and facts.neighbours[0].name,
        "next": facts.neighbours[1] and facts.neighbours[1].name,
    }
    return document(f"{operation.name} - minillm read", body, STYLES, SCRIPTS, data)


def _way(operation: Operation | None, relation: str, arrow: str) -> str:
    if operation is None:
        return ""
    return (
        f'<a href="{operation.name}.html" rel="{"prev" if relation == "previous" else "next"}" '
        f'title="{escape(operation.title)}"><span aria-hidden="true">{arrow}</span> {escape(operation.name)}</a>'
    )


def _toggles(has_kernels: bool) -> str:
    names = ["Derivation", "Forward", "Backward", *(["CUDA"] if has_kernels else [])]
    return "".join(
        f'<button type="button" data-column="{name.lower()}" aria-pressed="true">{name}</button>' for name in names
    )


KEYS = """<dialog id="keys" aria-labelledby="keys-title">
<h2 id="keys-title">Keys</h2>
<dl>
<dt><kbd>j</kbd> <kbd>k</kbd> or arrows</dt><dd>next and previous statement</dd>
<dt><kbd>h</kbd> <kbd>l</kbd> or arrows</dt><dd>its partner to the left and to the right</dd>
<dt><kbd>Enter</kbd></dt><dd>pin a statement; <kbd>Esc</kbd> lets it go</dd>
<dt><kbd>n</kbd></dt><dd>numbers of every line</dd>
<dt><kbd>o</kbd></dt><dd>backward in the order of its file, or level with forward</dd>
<dt><kbd>1</kbd> to <kbd>4</kbd></dt><dd>hide and show a column; on a narrow screen, choose it</dd>
<dt><kbd>[</kbd> <kbd>]</kbd></dt><dd>previous and next page</dd>
<dt><kbd>t</kbd></dt><dd>light or dark</dd>
<dt><kbd>?</kbd></dt><dd>these keys</dd>
</dl>
<form method="dialog"><button class="primary">Close</button></form>
</dialog>"""


# ---------------------------------------------------------------------------------------------------------- derivation


def derivation_html(text: str, symbols: Iterable[str]) -> str:
    """A docstring: paragraphs, and formulas where it is indented. Symbols are marked up as var."""
    blocks = re.split(r"\n\n+", text)
    return "\n".join(_block_html(block.split("\n"), set(symbols)) for block in blocks)


def _block_html(lines: list[str], symbols: set[str]) -> str:
    """One block, whose lines may change between words and formulas."""
    found, words = [], []
    for line in [*lines, ""]:
        if words and (line.startswith("    ") or not line):
            found.append(f"<p>{' '.join(words)}</p>")
            words = []
        if line.startswith("    "):
            found.append(_formula_html(line[4:], symbols))
        elif line:
            words.append(_words_html(line, symbols))
    return "".join(found)


def _formula_html(line: str, symbols: set[str]) -> str:
    """Parts of a line that many spaces keep apart stay whole where the column is narrow."""
    pieces = re.split(r"( {3,})", line.rstrip())
    parts = "".join(
        f"<span>{_with_symbols(piece, symbols)}</span>" if piece.strip() else piece for piece in pieces if piece
    )
    return f'<div class="formula">{parts}</div>'


def _words_html(line: str, symbols: set[str]) -> str:
    parts = line.split("`")
    return "".join(
        f"<code>{_with_symbols(part, symbols)}</code>" if at % 2 else escape(part, quote=False)
        for at, part in enumerate(parts)
    )


def _with_symbols(text: str, symbols: set[str]) -> str:
    done, found = 0, []
    for name in NAME.finditer(text):
        spelled = name[0] if name[0] in symbols else name[0].rstrip("^")
        found.append(escape(text[done : name.start()], quote=False))
        found.append(f"<var>{spelled}</var>{name[0][len(spelled) :]}" if spelled in symbols else name[0])
        done = name.end()
    return "".join(found) + escape(text[done:], quote=False)


def _symbols_html(symbols: dict[str, dict[str, str]]) -> str:
    """A button for every symbol, in the order of the derivation: the way to light one by keyboard."""
    names = dict.fromkeys(symbol for column in ("derivation", "code", "kernel") for symbol in symbols[column].values())
    if not names:
        return ""
    buttons = "".join(
        f'<button type="button" data-symbol="{escape(name)}" aria-pressed="false">{escape(name)}</button>' for name in names
    )
    return f'<div class="symbols" role="group" aria-label="Symbols">{buttons}</div>'


# ------------------------------------------------------------------------------------------------- forward and backward


def _pair_html(operation: Operation, facts: Facts, at: int) -> str:
    pair, code = operation.pairs[at], sources(operation)
    forward, backward = code[pair.forward], code[pair.backward] if pair.backward else None
    left, right = columns(facts.rows[at], forward, backward, facts.ties)
    seen = _by_function(facts.seen)
    second = _column_html(backward, right, seen, "backward") if backward else ""
    count = max(part.row for part in (*left, *right))
    title = " and ".join(f"<code>{escape(name)}</code>" for name in (pair.forward, pair.backward) if name)
    lone = "" if backward else " lone"
    return f"""<section class="pair{lone}" aria-labelledby="pair-{at}">
<h3 id="pair-{at}">{title} <span class="quiet">{escape(shown(forward.path))}</span></h3>
<div class="columns" style="--rows:{count}">
{_column_html(forward, left, seen, "forward")}{second}
</div>
</section>
"""


def _column_html(source: Source, parts: list[Part], seen: dict, side: str) -> str:
    cells = defaultdict(list)
    for part in parts:
        cells[part.row].append(_part_html(part, seen.get(source.function, ())))
    inside = "".join(f'<div class="cell" style="grid-row:{row}">{"".join(html)}</div>' for row, html in cells.items())
    return (
        f'<div class="column {side}"><p class="head" aria-hidden="true">{side}</p>'
        f'<div class="code" role="listbox" aria-label="{side}: {escape(source.function)}" data-language="python">'
        f"{inside}</div></div>"
    )


def _part_html(part: Part, seen: Iterable[Seen]) -> str:
    lines = "".join(
        f'<div class="line" data-n="{number}">{escape(line, quote=False)}</div>'
        for number, line in enumerate(part.lines, part.first)
    )
    if not part.identity:
        return f'<div class="block">{lines}</div>'
    lights = f' data-lights="{" ".join(part.lights)}"' if part.lights else ""
    numbers = "".join(seen_html(one) for one in seen if part.first <= one.line <= part.last)
    numbers = f'<div class="seen">{numbers}</div>' if numbers else ""
    return (
        f'<div class="statement" role="option" aria-selected="false" tabindex="-1" data-id="{part.identity}"{lights}>'
        f"{lines}{numbers}</div>"
    )


def seen_html(seen: Seen) -> str:
    """What a name held after its line: shape, norm and the first values."""
    values = ", ".join(map(short, seen.values[:SHOWN]))
    if not seen.shape:
        return f"<div><b>{escape(seen.name)}</b> = {values}</div>"
    count = 1
    for size in seen.shape:
        count *= size
    more = ", …" if count > len(seen.values[:SHOWN]) else ""
    shape = ", ".join(map(str, seen.shape)) + ("," if len(seen.shape) == 1 else "")
    return f"<div><b>{escape(seen.name)}</b> ({shape}) norm {short(seen.norm)}: {values}{more}</div>"


def short(number: float) -> str:
    """Four significant digits.

    >>> short(0.00123456), short(-2.0), short(float("-inf")), short(1.5e-7)
    ('0.001235', '-2', '-inf', '1.5e-07')
    """
    return f"{number:.4g}"


def _by_function(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    found = defaultdict(list)
    for one in seen:
        found[one.function].append(one)
    return found


def shown(path: Path) -> str:
    """A path as editors open it from the root of the sources."""
    return Path(os.path.relpath(path, ROOT)).as_posix() if path.is_relative_to(ROOT) else path.name


# ---------------------------------------------------------------------------------------------------------------- CUDA


def _kernels_html(operation: Operation, facts: Facts) -> str:
    assigned = assigned_names(operation, [pair for pair in operation.pairs if _is_formula(pair)])
    files = "".join(
        _file_html(source, functions(source, number, assigned), bool(facts.ladder))
        for number, source in enumerate(kernel_sources(operation).values())
    )
    if not files:
        return ""
    return f"""<section class="kernels" aria-labelledby="kernels-title" tabindex="0">
<h2 id="kernels-title">CUDA</h2>
{files}</section>"""


def _is_formula(pair: Pair) -> bool:
    return pair.forward[:1].islower()


def _file_html(source: Source, kernels: list[Kernel], is_ladder: bool) -> str:
    return f"""<h3><code>{escape(shown(source.path))}</code></h3>
{"".join(_kernel_html(kernel, at == 0, is_ladder) for at, kernel in enumerate(kernels))}"""


def _kernel_html(kernel: Kernel, is_header: bool, is_ladder: bool) -> str:
    tied = any(part.identity for part in kernel.parts)
    role = f'role="listbox" aria-label="CUDA: {escape(kernel.opening)}"' if tied else ""
    parts = "".join(_part_html(part, ()) for part in kernel.parts)
    is_open = kernel.is_global or tied or is_header and is_ladder
    title = "What it does" if is_header else f"<code>{escape(kernel.opening)}</code>"
    kind = ' <span class="quiet">kernel</span>' if kernel.is_global else ""
    return (
        f'<details{" open" if is_open else ""}><summary>{title}{kind}</summary>'
        f'<div class="code" {role} data-language="cuda">{parts}</div></details>\n'
    )
