"""The sampler as a static page: logits of a real model are saved in it, the stages run in the page.

Saved are the logits of the lessons' small model at 200 positions of its validation text, rounded to
1/24 so that the page stays below 200 kB. What the page computes from them (look/stages.js) equals
what minillm.sampler computes from the same numbers: tests/web/test_sampler_page.py compares them.
"""

from __future__ import annotations

import base64
import json
import zlib
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.data.corpora import load_text, split_text
from minillm.lessons.small_model import CORPUS, small_model
from minillm.web.page import LOOK, document
from minillm.web.sampler_controls import sampler_controls

NAME = "sampler.html"
POSITIONS = 200
STEPS = 24  # a logit is saved as a multiple of 1 / STEPS
ESCAPE = -128  # in place of a difference that a byte cannot hold
SEARCHED = 40_000  # letters of the validation text in which the page's text is looked for

HERE = Path(__file__).parent
STYLES = [LOOK / "pipeline.css", HERE / "sampler.css"]
STAGES = [
    LOOK / f"{name}.js" for name in ("stage_weights", "stage_settings", "stage_penalties", "stage_cuts", "stages")
]
LOOKS = [LOOK / f"{name}.js" for name in ("dom", "browser", "theme", "pipeline_table", "pipeline", "settings")]
SCRIPTS = [*LOOKS, *STAGES, HERE / "sampler.js"]
BODY = """<header class="top">
<h1>The sampler, stage by stage</h1>
{home}<button id="theme" type="button">light or dark</button>
</header>
<main id="sampler"><noscript>This page computes every stage itself: it needs JavaScript.</noscript></main>
"""


class SavedText(NamedTuple):
    """A real text and what a model predicted.

    logits (P, V): row i belongs to the token that follows prompt + text[:i]. text (P,): the tokens
    that came.
    """

    logits: np.ndarray
    prompt: list[int]
    text: list[int]


def sampler_page(home: str = "") -> str:
    """The page: HTML with all it needs inside. The first call on a machine trains the small model.

    home: the address of a front page to link to.
    """
    saved, small = saved_text(), small_model()
    words = {
        "pieces": [small.tokenizer.piece(index) for index in range(small.tokenizer.vocab_size)],
        "prompt": saved.prompt,
        "text": saved.text,
        "controls": sampler_controls(),
        "steps": STEPS,
    }
    data = {
        "words": packed(json.dumps(words, separators=(",", ":")).encode()),
        "logits": packed(bytes_of(saved.logits)),
    }
    body = BODY.format(home=f'<a href="{escape(home)}">all pages</a>\n' if home else "")
    return document("The sampler, stage by stage", body, STYLES, SCRIPTS, data)


@lru_cache(maxsize=1)
def saved_text() -> SavedText:
    """The text of the page with its logits, which are multiples of 1 / STEPS."""
    model, tokenizer, _, _ = small_model()
    ids = tokenizer.encode(split_text(load_text([CORPUS]))[1][:SEARCHED])
    context = model.config.context_length
    start = _after_a_blank_line(ids, tokenizer, context)
    windows = np.array([ids[at - context : at] for at in range(start, start + POSITIONS)])  # (P, context)
    logits = np.round(model.next_token_logits(windows) * STEPS) / STEPS
    return SavedText(logits.astype(np.float32), ids[start - context : start], ids[start : start + POSITIONS])


def bytes_of(logits) -> bytes:
    """Logits (P, V), multiples of 1 / STEPS  ->  bytes; `logitsOf` of sampler.js reads them.

    In units of 1 / STEPS: the mean of each token (V int16), the differences from it (P V int8,
    ESCAPE where a difference is above 127), and those that were escaped (int16), in order. Few of
    the differences from the mean are frequent, so that they compress.
    """
    units = np.round(np.asarray(logits, np.float64) * STEPS).astype(np.int64)
    means = np.round(units.mean(axis=0)).astype(np.int64)
    differences = (units - means).ravel()
    large = np.abs(differences) > 127
    small = np.where(large, ESCAPE, differences).astype(np.int8)
    return means.astype("<i2").tobytes() + small.tobytes() + differences[large].astype("<i2").tobytes()


def packed(content: bytes) -> str:
    """Compressed, as text."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _after_a_blank_line(ids: list[int], tokenizer, least: int) -> int:
    """The first place from `least` on at which a paragraph begins."""
    for at in range(least, len(ids) - POSITIONS):
        if tokenizer.decode(ids[:at]).endswith("\n\n") and tokenizer.piece(ids[at])[0].isalpha():
            return at
    return least
