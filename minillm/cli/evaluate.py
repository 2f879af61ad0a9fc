"""minillm evaluate"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.special import OF_DATA, Special
from minillm.cli.terminal import waiting


class Split(str, Enum):
    """Which part of a text."""

    all = "all"
    train = "train"
    validation = "validation"


def command(
    model: Annotated[
        Path, typer.Argument(help="A run folder, a Hugging Face folder, or a model on its hub: owner/model.")
    ],
    files: Annotated[Optional[list[str]], typer.Argument(help="More files for --data.", show_default=False)] = None,
    data: Annotated[
        Optional[list[str]],
        typer.Option(
            help="python-docs, shakespeare, or UTF-8 text files; if left out, the run's own data.", show_default=False
        ),
    ] = None,
    split: Annotated[
        Optional[Split],
        typer.Option(
            help="The first 90 % (train), the rest (validation), or all; all with --data, else validation.",
            show_default=False,
        ),
    ] = None,
    special: Annotated[Optional[Special], OF_DATA] = None,
    batch_size: Annotated[int, typer.Option(help="Windows at a time; no influence on the result.", min=1)] = 12,
    dtype: Annotated[str, typer.Option(help="float32, float64, or on a GPU tf32 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda (needs CuPy), or cudasim.")] = "cpu",
) -> None:
    """Measure loss (nats a token), perplexity and bits per byte of a model on a whole text.

    The text is read in windows of the model's context length, one after the other, so that every
    token but the first is predicted once.
    """
    import sys

    from minillm.data.special import end_of_text_note
    from minillm.training.text_evaluation import evaluate_text, run_special, run_text

    sources = [*(data or []), *(files or [])]
    from minillm.pretrained import from_pretrained, tokenizer_of

    with waiting("opening the model", plain=False):
        language_model, tokenizer = from_pretrained(model, dtype).to(device), tokenizer_of(model)
    part = split.value if split else ("all" if sources else "validation")
    text = run_text(sources, model, part)
    name = ", ".join(sources) or "the run's own text"
    print(name + ("" if part == "all" else f", its {part} part"), file=sys.stderr)
    reading = special.value if special else run_special(model)

    def note(ids) -> None:
        if line := end_of_text_note(tokenizer, ids):
            print(line, file=sys.stderr)

    with waiting("measuring on the whole text", plain=False):
        result, bits = evaluate_text(language_model, tokenizer, text, batch_size, reading, note)
    print(
        f"tokens {result.tokens:,}  loss {result.loss:.4f}  perplexity {result.perplexity:.4f}  bits per byte {bits:.4f}"
    )
