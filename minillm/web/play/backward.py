"""The view Backward: a text through the model and back.

POST /backward/example                               a text to begin with
     /backward/pass        text                      the tensors in order, in numbers, with progress
     /backward/maps        text, names               small pictures of some of them
     /backward/tensor      text, name                one of them: its code, its formula, and its map
     /backward/window      text, name, window        a part of its map, closer
     /backward/attention   text, block, head         where a head's tokens read, and where the gradient goes
     /backward/check       text, name                its gradient against finite differences, element by element
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from starlette.routing import Route

from minillm.checks.verdicts import TOLERANCE
from minillm.errors import UserError
from minillm.inspection import Check
from minillm.inspection.checking import checked_elements, choose_elements
from minillm.inspection.table import verdict_of
from minillm.inspection.text import gradient_in_float64, shifted
from minillm.web.play.answers import answer, stream
from minillm.web.play.arguments import part, text, texts, whole
from minillm.web.play.heat_maps import heat_map
from minillm.web.play.passes import Opened, Passes
from minillm.web.play.studio import Studio, Worker

EXAMPLE = "The list has a method that returns the number of items in the list"
LONGEST_TEXT, LONGEST_NAME = 100_000, 300  # characters
MOST_NAMES = 64  # pictures of one request


def routes(studio: Studio) -> list[Route]:
    """The routes of this view."""
    passes = Passes(studio)

    def check(studio: Studio, arguments: dict) -> Iterator[dict]:
        return checked(passes, studio, arguments)

    def run(studio: Studio, arguments: dict) -> Iterator[dict]:
        yield from passes.run(text_in(arguments))

    # `run` waits for the studio's worker, so it cannot run there. A check runs the model a hundred
    # times, in float64, where finite differences are precise enough. So it has a copy of the
    # weights, while it lasts, in any case, and with it a worker of its own: all else is answered
    # meanwhile.
    return [
        answer("/backward/example", studio, lambda _, arguments: example(passes)),
        stream("/backward/pass", studio, run, Worker("backward")),
        answer("/backward/maps", studio, lambda _, arguments: little_maps(passes, arguments)),
        answer("/backward/tensor", studio, lambda _, arguments: tensor(passes, arguments)),
        answer("/backward/window", studio, lambda _, arguments: window(passes, arguments)),
        answer("/backward/attention", studio, lambda _, arguments: attention(passes, arguments)),
        stream("/backward/check", studio, check, Worker("check")),
    ]


def example(passes: Passes) -> str:
    """As many words of EXAMPLE as the model takes; empty where there are none."""
    words = EXAMPLE.split()
    beginnings = (" ".join(words[:count]) for count in range(len(words), 0, -1))
    return next((beginning for beginning in beginnings if _is_taken(passes, beginning)), "")


def _is_taken(passes: Passes, beginning: str) -> bool:
    try:
        passes.encode(beginning)
    except UserError:
        return False
    return True


def little_maps(passes: Passes, arguments: dict) -> dict:
    """Name -> {"values": map, "gradient": map or None} (heat_maps.py)."""
    return passes.little_maps(text_in(arguments), texts(arguments, "names", MOST_NAMES, LONGEST_NAME))


def tensor(passes: Passes, arguments: dict) -> dict:
    """One tensor with its whole map."""
    opened = passes.opened(text_in(arguments), name_in(arguments))
    return opened.description | maps_of(opened, None)


def window(passes: Passes, arguments: dict) -> dict:
    """A part of a tensor's map. window: [first row, last + 1, first column, last + 1]."""
    opened = passes.opened(text_in(arguments), name_in(arguments))
    return maps_of(opened, part(arguments, "window", opened.values.shape))


def maps_of(opened: Opened, shown: tuple | None) -> dict:
    """The maps of a tensor's values and gradient; shown: a part of them, None for the whole."""
    gradient = None if opened.gradient is None else heat_map(opened.gradient, shown)
    return {"values": heat_map(opened.values, shown), "gradient": gradient}


def attention(passes: Passes, arguments: dict) -> dict:
    """A head's p, dp and ds as maps, and the norms of its vectors. window: as of `window`."""
    given = text_in(arguments)
    layer = passes.attention(given, whole(arguments, "block", 0, passes.of(given).answer["attention"] - 1))
    head = whole(arguments, "head", 0, layer.heads - 1)
    pattern = layer.pattern(head)
    shown = part(arguments, "window", pattern.p.shape, None)
    return {
        "layer": layer.layer,
        "heads": layer.heads,
        "key_value_heads": layer.key_value_heads,
        "window": layer.window,
        "maps": {name: heat_map(getattr(pattern, name), shown) for name in ("p", "dp", "ds")},
        "norms": {name: norms.astype(float).tolist() for name, norms in asdict(pattern.norms).items()},
    }


def checked(passes: Passes, studio: Studio, arguments: dict) -> Iterator[dict]:
    """Yields {"of": number of elements}, each element, and {"verdict", "text", "tolerance"}."""
    ids, name = passes.encode(text_in(arguments)), name_in(arguments)
    yield {"prepares": True}
    model, found, gradient = gradient_in_float64(studio.model, ids, name)
    chosen = choose_elements(found.name, gradient)
    yield {"of": len(chosen)}
    elements = []
    for element in checked_elements(model, *shifted(ids), found, gradient, chosen):
        elements.append(element)
        yield {"element": asdict(element)}
    check = Check(name, elements)
    yield {"verdict": check.verdict, "text": verdict_of(check), "tolerance": TOLERANCE}


# ----------------------------------------------------------------------------------- what the page sends


def text_in(arguments: dict) -> str:
    """The text. Raises UserError for an empty one."""
    given = text(arguments, "text", LONGEST_TEXT, "")
    if not given:
        raise UserError("the text is empty: write one of at least two tokens")
    return given


def name_in(arguments: dict) -> str:
    """The name of a tensor, without knowing whether there is one."""
    return text(arguments, "name", LONGEST_NAME)
