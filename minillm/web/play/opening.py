"""Opens the model of the page."""

from __future__ import annotations

from pathlib import Path

from minillm.lessons.small_model import small_model
from minillm.pretrained import from_pretrained, tokenizer_of
from minillm.pretrained.end_tokens import end_tokens
from minillm.web.play.studio import Studio


def open_studio(model: Path | None, runs: Path) -> Studio:
    """The studio of a model that `minillm generate` takes, or of the lessons' small model for None."""
    if model is None:
        small = small_model()
        ends = end_tokens(small.folder, small.tokenizer)
        return Studio(small.model, small.tokenizer, "the lessons' small model", runs, end_tokens=ends)
    tokenizer = tokenizer_of(model)
    ends = end_tokens(model, tokenizer)
    return Studio(from_pretrained(model).eval(), tokenizer, str(model), runs, end_tokens=ends)
