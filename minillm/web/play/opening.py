"""Opens the model of the page, and says its size before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minillm.lessons.small_model import small_model
from minillm.pretrained import from_pretrained, model_chain, tokenizer_of
from minillm.pretrained.end_tokens import end_tokens
from minillm.pretrained.gguf import is_gguf, open_gguf
from minillm.pretrained.gguf_keys import model_class_of
from minillm.pretrained.hugging_face import read_config
from minillm.profiling.memory import count_parameters
from minillm.profiling.memory_advice import format_bytes, memory_of
from minillm.web.play.studio import Studio

BYTES = 4  # of a weight in float32


def open_studio(source: str | Path | None, runs: Path, say: Callable[[str], None] = lambda line: None) -> Studio:
    """The studio of a model that `minillm generate` takes, or of the lessons' small model for None.

    say is given one line before the weights are read: how many there are, and their memory. Raises
    UserError for what is no model.
    """
    if source is None:
        small = small_model()
        say(f"the lessons' small model: {described(small.model.config)}")
        ends = end_tokens(small.folder, small.tokenizer)
        return Studio(small.model, small.tokenizer, "the lessons' small model", runs, end_tokens=ends)
    say(f"{source}: {size_of(source)}")
    tokenizer = tokenizer_of(source)
    ends = end_tokens(source, tokenizer)
    return Studio(from_pretrained(source).eval(), tokenizer, str(source), runs, end_tokens=ends)


def size_of(source: str | Path) -> str:
    """The size of a model in words, from its header: no weight is read.

    Raises UserError for what is no model.
    """
    *_, base = model_chain(source)
    if base.is_dir():
        return described(read_config(base))
    if is_gguf(base):
        file = open_gguf(base)
        return described(model_class_of(file).config_from_gguf(file))
    return f"a file of {format_bytes(base.stat().st_size)}"


def described(config) -> str:
    """Weights and memory of a model in float32."""
    weights = count_parameters(config)
    text = f"{weights:,} weights, {format_bytes(weights * BYTES)} in float32"
    free = memory_of("cpu").free
    if free is not None and weights * BYTES > free:
        text += f"; only {format_bytes(free)} are free on this machine"
    return text
