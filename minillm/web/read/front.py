"""The front page: the tour, and all pages by group."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from minillm.web.page import LOOK, document
from minillm.web.read.operation import GROUPS, Operation
from minillm.web.read.sampler_page import NAME as SAMPLER
from minillm.web.read.stops import STOPS
from minillm.web.read.tour import checks, tour_html

HERE = Path(__file__).parent
STYLES = [HERE / "front.css"]
SCRIPTS = [LOOK / "dom.js", LOOK / "browser.js", LOOK / "theme.js", HERE / "tour.js"]


def front_page(operations: Iterable[Operation]) -> str:
    """The whole HTML file.

    Raises UserError where the engine does not answer a question of the tour.
    """
    body = f"""
<div class="front">
<header>
<div><h1>Backpropagation, line beside line</h1>
<p>Every gradient of minillm is written by hand. Here each operation is a page: its derivation, the forward pass, the
backward pass level with the lines that it differentiates, and the CUDA kernel. Point at a line, and its partners light
up; the numbers are those of a small real pass.</p></div>
<button type="button" id="theme">Light or dark</button>
</header>
<main>
<section aria-labelledby="tour-title">
<h2 id="tour-title">A tour of ten stops</h2>
<p>One question at each; the engine computes the answers. <span id="progress" role="status" class="quiet"></span></p>
<div class="row"><button type="button" id="all" aria-pressed="false">Open all</button>
<button type="button" id="again">Begin again</button></div>
{tour_html(STOPS)}
</section>
<section aria-labelledby="pages-title">
<h2 id="pages-title">All pages</h2>
<div class="groups">{_groups_html(list(operations))}</div>
</section>
</main>
</div>
"""
    data = {"stops": [{"name": stop.name, **checks(stop)} for stop in STOPS]}
    return document("minillm read", body, STYLES, SCRIPTS, data)


def _groups_html(operations: list[Operation]) -> str:
    found = {group: [each for each in operations if each.group == group] for group in GROUPS}
    lists = [
        _list_html(group, [(f"{each.name}.html", each.title) for each in members]) for group, members in found.items()
    ]
    return "".join([*lists, _list_html("sampling", [(SAMPLER, "The sampler: from logits to a token")])])


def _list_html(group: str, links: list[tuple[str, str]]) -> str:
    items = "".join(f'<li><a href="{address}">{escape(title)}</a></li>' for address, title in links)
    return f"<section><h3>{escape(group)}</h3><ul>{items}</ul></section>"
