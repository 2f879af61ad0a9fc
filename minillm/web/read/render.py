"""The page of an operation as HTML: derivation, forward and backward, CUDA.

Lines are plain text in the file; read.js colours them and ties them together (look/code.js).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from minillm.web.page import LOOK, document
from minillm.web.read.layout import Kernel, Part, assigned_names, columns, functions
from minillm.web.read.operation import Operation, Pair, Seen, Source, Tie, kernel_sources, shown, sources
from minillm.web.read.rows import Row

HERE = Path(__file__).parent
STYLES = [LOOK / "code.css", HERE / "read.css"]
SCRIPTS = [LOOK / "dom.js", LOOK / "code.js", LOOK / "browser.js", LOOK / "theme.js", HERE / "read.js"]
DEFINED = re.compile(r"((?:dL/d)?[A-Za-z]\w*\^?) *= ")  # the name that a formula defines
EQUATION = re.compile(r"[^=<>]*\S += ")
CONTINUED = re.compile(r" {4,}= ")  # a formula goes on below its equals sign
APART = re.compile(r"( {3,}(?![ =]))")  # spaces before an equals sign only align
SHOWN = 3  # values of an intermediate
NAME = re.compile(  # in a formula
    r"dL/d[A-Za-z]\w*"  # the gradient dL/dz_j
    r"|(?<=\bd)[A-Za-z]\w*(?=/d[A-Za-z])|(?<=[\w)]/d)[A-Za-z]\w*"  # rstd and x_i of the slope drstd/dx_i
    r"|(?!(?<=[\w)]/)d[A-Za-z]|\w+/d[A-Za-z])[A-Za-z]\w*\^?"  # x_i, m^
)


@dataclass(frozen=True)
class Facts:
    """What is known of an operation.

    symbols: column ("derivation", "code" or "kernel") -> spelling there -> the symbol that it is.
    """

    ties: list[Tie]
    rows: dict[Pair, list[Row]]
    seen: list[Seen]
    symbols: dict[str, dict[str, str]]
    no_numbers: str = ""  # why there are none
    ladder: str = ""  # HTML of the table of rungs
    neighbours: tuple[Operation | None, Operation | None] = field(default=(None, None))


def page(operation: Operation, facts: Facts) -> str:
    """The whole HTML file."""
    kernels = _kernels_html(operation, facts)
    kinds = {"ladder": facts.ladder, "bare": not kernels, "no-backward": not _has_backward(operation)}
    sheet = " ".join(["sheet", *(kind for kind, holds in kinds.items() if holds)])
    body = f"""
<a class="skip" href="#sheet">To the code</a>
<header class="top">
<div class="bar">
<nav aria-label="Pages">{_way(facts.neighbours[0], "prev", "←")}<a href="index.html" id="index">All pages</a>\
{_way(facts.neighbours[1], "next", "→")}</nav>
<h1>{escape(operation.title)}</h1>
<div class="tools">
<button type="button" id="numbers" aria-pressed="false"
title="Of a small real pass; of a line that ran often, the first time (n)">Numbers</button>
<button type="button" id="order" aria-pressed="false" title="Backward in the order of its file (o)">File order</button>
<button type="button" id="theme" title="Light or dark (t)">Light or dark</button>
<button type="button" id="help" title="Keys (?)" aria-haspopup="dialog">Keys</button>
</div>
</div>
<div class="second">
<div role="group" aria-label="Columns" id="columns">{_toggles(operation)}</div>
{_symbols_html(facts.symbols)}
</div>
</header>
<main id="sheet" class="{sheet}" tabindex="-1">
<section class="derivation" aria-labelledby="derivation-title" tabindex="0">
<h2 id="derivation-title">Derivation</h2>
{derivation_html(operation.derivation, facts.symbols["derivation"])}
</section>
<section class="pairs" aria-labelledby="pairs-title" tabindex="0">
<h2 id="pairs-title" class="sr-only">Forward and backward</h2>
{_no_numbers_html(facts.no_numbers)}{"".join(_pair_html(operation, facts, at) for at in range(len(operation.pairs)))}
</section>
{kernels}
</main>
<div id="partner" hidden></div>
<p id="said" class="sr-only" role="status"></p>
{KEYS}
"""
    data = {
        "symbols": facts.symbols,
        "previous": facts.neighbours[0] and facts.neighbours[0].name,
        "next": facts.neighbours[1] and facts.neighbours[1].name,
    }
    return document(f"{operation.name} - minillm read", body, STYLES, SCRIPTS, data)


def _way(operation: Operation | None, relation: str, arrow: str) -> str:
    if operation is None:
        return ""
    mark = f'<span aria-hidden="true">{arrow}</span>'
    text = f"{mark} {escape(operation.name)}" if relation == "prev" else f"{escape(operation.name)} {mark}"
    return f'<a href="{operation.name}.html" rel="{relation}" title="{escape(operation.title)}">{text}</a>'


def _toggles(operation: Operation) -> str:
    columns = {"derivation": "Derivation", "forward": _name_of_forward(operation)}
    columns |= {"backward": "Backward"} if _has_backward(operation) else {}
    columns |= {"cuda": "CUDA"} if operation.kernels else {}
    return "".join(
        f'<button type="button" data-column="{column}" aria-pressed="true">{name}</button>'
        for column, name in columns.items()
    )


def _name_of_forward(operation: Operation) -> str:
    """An optimizer has no forward pass."""
    return "Forward" if _has_backward(operation) else "Code"


def _has_backward(operation: Operation) -> bool:
    return any(pair.backward for pair in operation.pairs)


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


def derivation_html(text: str, symbols: dict[str, str]) -> str:
    """A docstring: paragraphs, and formulas where it is indented. Symbols are marked up as var.

    symbols: spelling -> symbol. A formula that defines one bears its name.
    """
    blocks = re.split(r"\n\n+", text)
    return "\n".join(_block_html(block.split("\n"), symbols) for block in blocks)


def _block_html(lines: list[str], symbols: dict[str, str]) -> str:
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


def _formula_html(line: str, symbols: dict[str, str]) -> str:
    """Parts of a line that many spaces keep apart stay whole where the column is narrow.

    Of several equations in a line each begins a line of its own.
    """
    kind = "formula further" if CONTINUED.match(line) else "formula"
    pieces = APART.split(line.strip() if kind != "formula" else line.rstrip())
    rows = [pieces[:1]]
    for spaces, piece in zip(pieces[1::2], pieces[2::2]):
        if EQUATION.match(pieces[0]) and EQUATION.match(piece):
            rows.append([piece])
        else:
            rows[-1] += [spaces, piece]
    return "".join(f'<div class="{kind}">{_pieces_html(row, symbols)}</div>' for row in rows)


def _pieces_html(pieces: list[str], symbols: dict[str, str]) -> str:
    return "".join(_formula_part_html(piece, symbols) if piece.strip() else piece for piece in pieces)


def _formula_part_html(text: str, symbols: dict[str, str]) -> str:
    """Where there is no room for a = b = c, the line ends before the second equals sign."""
    defined = DEFINED.match(text)
    name = symbols.get(defined[1]) if defined else None
    defines = f' data-defines="{name}"' if name else ""
    kind = "part equation" if "=" in text else "part"
    inside = " ".join(f"<span>{_with_symbols(step, symbols)}</span>" for step in _steps(text))
    return f'<span class="{kind}"{defines}>{inside}</span>'


def _steps(text: str) -> list[str]:
    """The steps of an equation; where commas part several, they are not taken apart.

    >>> _steps("p = exp(s) / l = exp(s - lse)"), _steps("a = b = c,  d = e")
    (['p = exp(s) / l', '= exp(s - lse)'], ['a = b = c,  d = e'])
    """
    if "," in text:
        return [text]
    first, *others = text.split(" = ")
    return [" = ".join([first, *others[:1]]), *(f"= {other}" for other in others[1:])]


def _words_html(line: str, symbols: dict[str, str]) -> str:
    parts = line.split("`")
    return "".join(
        f"<code>{_with_symbols(part, symbols)}</code>" if at % 2 else escape(part, quote=False)
        for at, part in enumerate(parts)
    )


def _with_symbols(text: str, symbols: dict[str, str]) -> str:
    done, found = 0, []
    for name in NAME.finditer(text):
        spelled = name[0] if name[0] in symbols else name[0].rstrip("^")
        found.append(escape(text[done : name.start()], quote=False))
        found.append(f"<var>{spelled}</var>{name[0][len(spelled) :]}" if spelled in symbols else name[0])
        done = name.end()
    return "".join(found) + escape(text[done:], quote=False)


def _symbols_html(symbols: dict[str, dict[str, str]]) -> str:
    """A button for every symbol of derivation or kernel, or of the code without them: to light one
    by keyboard.
    """
    names = dict.fromkeys([*symbols["derivation"].values(), *symbols["kernel"].values()])
    names = names or dict.fromkeys(symbols["code"].values())
    if not names:
        return ""
    buttons = "".join(
        f'<button type="button" data-symbol="{escape(name)}" aria-pressed="false">{escape(name)}</button>'
        for name in names
    )
    return f'<div class="symbols" role="group" aria-label="Symbols">{buttons}</div>'


# ------------------------------------------------------------------------------------------------- forward and backward


def _pair_html(operation: Operation, facts: Facts, at: int) -> str:
    pair, code = operation.pairs[at], sources(operation)
    forward, backward = code[pair.forward], code[pair.backward] if pair.backward else None
    left, right = columns(facts.rows[pair], forward, backward, facts.ties)
    second = _column_html(operation, facts, backward, right, "backward") if backward else ""
    count = max(part.row for part in (*left, *right))
    title = " and ".join(f"<code>{escape(name)}</code>" for name in (pair.forward, pair.backward) if name)
    lone = "" if backward else " lone"
    return f"""<section class="pair{lone}" aria-labelledby="pair-{at}">
<h3 id="pair-{at}">{title} <span class="quiet">{escape(shown(forward.path))}</span></h3>
<div class="columns" style="--rows:{count}">
{_column_html(operation, facts, forward, left, "forward")}{second}
</div>
</section>
"""


def _column_html(operation: Operation, facts: Facts, source: Source, parts: list[Part], side: str) -> str:
    seen = [one for one in facts.seen if one.function == source.function]
    cells = defaultdict(list)
    for part in parts:
        cells[part.row].append(_part_html(part, facts.symbols["code"], seen))
    inside = "".join(f'<div class="cell" style="grid-row:{row}">{"".join(html)}</div>' for row, html in cells.items())
    head = side if side == "backward" else _name_of_forward(operation).lower()
    return (
        f'<div class="column {side}"><p class="head" aria-hidden="true">{head}</p>'
        f'<div class="code" role="listbox" aria-label="{head}: {escape(source.function)}" data-language="python">'
        f"{inside}</div></div>"
    )


def _part_html(part: Part, symbols: dict[str, str], seen: Iterable[Seen] = ()) -> str:
    lines = "".join(
        f'<div class="line" data-n="{number}">{escape(line, quote=False)}</div>'
        for number, line in enumerate(part.lines, part.first)
    )
    numbers = "".join(seen_html(one) for one in seen if part.first <= one.line <= part.last)
    numbers = f'<div class="seen">{numbers}</div>' if numbers else ""
    if not part.identity:
        return f'<div class="block">{lines}{numbers}</div>'
    lights = f' data-lights="{" ".join(part.lights)}"' if part.lights else ""
    names = dict.fromkeys(symbols[name] for name in part.computes if name in symbols)
    computes = f' data-computes="{" ".join(names)}"' if names else ""
    return (
        f'<div class="statement" role="option" aria-selected="false" tabindex="-1" data-id="{part.identity}"{lights}{computes}>'
        f"{lines}{numbers}</div>"
    )


def _no_numbers_html(reason: str) -> str:
    return f'<p class="quiet">There are no numbers here: {escape(reason)}</p>' if reason else ""


def seen_html(seen: Seen) -> str:
    """What a name held after its line: shape, norm and the first values."""
    shape = ", ".join(map(str, seen.shape)) + ("," if len(seen.shape) == 1 else "")
    shape = f" ({shape})" if seen.shape else ""
    dtype = "" if seen.dtype == "float32" else f" {seen.dtype}"
    norm = f" norm {short(seen.norm)}" if seen.norm is not None and seen.shape else ""
    values = ", ".join(map(short, seen.values[:SHOWN]))
    more = ", …" if math.prod(seen.shape) > SHOWN else ""
    values = f": {values}{more}" if values else ""
    return f"<div><b>{escape(seen.name)}</b>{shape}{dtype}{norm}{values}</div>"


def short(number: float) -> str:
    """Four significant digits.

    >>> short(0.00123456), short(-2.0), short(float("-inf")), short(1.5e-7)
    ('0.001235', '-2', '-inf', '1.5e-07')
    """
    return f"{number:.4g}"


# ---------------------------------------------------------------------------------------------------------------- CUDA


def _kernels_html(operation: Operation, facts: Facts) -> str:
    assigned = assigned_names(operation, facts.symbols["derivation"])
    files = "".join(
        _file_html(source, functions(source, number, assigned), facts)
        for number, source in enumerate(kernel_sources(operation).values())
    )
    if not files:
        return ""
    return f"""<section class="kernels" aria-labelledby="kernels-title" tabindex="0">
<h2 id="kernels-title">CUDA</h2>
{facts.ladder}{files}</section>"""


def _file_html(source: Source, kernels: list[Kernel], facts: Facts) -> str:
    return f"""<h3><code>{escape(shown(source.path))}</code></h3>
{"".join(_kernel_html(kernel, at == 0, facts) for at, kernel in enumerate(kernels))}"""


def _kernel_html(kernel: Kernel, is_header: bool, facts: Facts) -> str:
    is_ladder, names = bool(facts.ladder), _names_of_formulas(facts.symbols)
    tied = any(part.identity for part in kernel.parts)
    role = f'role="listbox" aria-label="CUDA: {escape(kernel.name)}"' if tied else ""
    parts = "".join(_part_html(part, names) for part in kernel.parts)
    is_open = kernel.is_global or tied or is_header and is_ladder
    header = "The idea of this rung" if is_ladder else "What it does"
    title = header if is_header else f"<code>{escape(kernel.name)}</code>"
    kind = ' <span class="quiet">kernel</span>' if kernel.is_global else ""
    return (
        f"<details{' open' if is_open else ''}><summary>{title}{kind}</summary>"
        f'<div class="code" {role} data-language="cuda">{parts}</div></details>\n'
    )


def _names_of_formulas(symbols: dict[str, dict[str, str]]) -> dict[str, str]:
    """The names that kernels quote formulas by -> symbols: those of the derivation without indices,
    and of the code.
    """
    without_indices = {spelling.partition("_")[0]: name for spelling, name in symbols["derivation"].items()}
    return symbols["code"] | without_indices
