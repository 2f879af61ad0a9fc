"""What `minillm generate` writes with the lessons' model, to compare the page with."""

import io
import json
import sys

import pytest

from minillm.cli import main
from minillm.lessons.small_model import small_model

PROMPT = "The value of"


def generated(*options, tokens):
    """The line of `minillm generate --json` after PROMPT, with the lessons' model."""
    arguments = ["generate", small_model().folder, "--prompt", PROMPT, "--max-tokens", tokens, *options]
    output = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["minillm", *map(str, arguments), "--json"])
        patch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    output.flush()
    return json.loads(output.buffer.getvalue())
