"""minillm evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.opening import HELP as DTYPE_HELP
from minillm.cli.opening import settings_of
from minillm.cli.plain_values import Choice
from minillm.cli.special import OF_DATA, Special
from minillm.cli.terminal import waiting


class Split(Choice):
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
    chat_data: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Files of conversations: measure on the assistant's tokens; a run that learned from conversations has "
            "its own.",
            show_default=False,
        ),
    ] = None,
    chat_template: Annotated[
        str, typer.Option(help="With --chat-data: as of train --chat-template.", show_default=False)
    ] = "",
    split: Annotated[
        Optional[Split],
        typer.Option(
            help="The first 90 % (train), the rest (validation), or all; all with --data, else validation.",
            show_default=False,
        ),
    ] = None,
    special: Annotated[Optional[Special], OF_DATA] = None,
    batch_size: Annotated[int, typer.Option(help="Windows at a time; no influence on the result.", min=1)] = 12,
    dtype: Annotated[str, typer.Option(help=f"{DTYPE_HELP} On a GPU also tf32 and bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda (needs CuPy), or cudasim.")] = "cpu",
) -> None:
    """Measure loss (nats a token), perplexity and bits per byte of a model on a whole text.

    The text is read in windows of the model's context length, one after the other, so that every
    token but the first is predicted once.

    Of conversations, loss and perplexity are those of the assistant's tokens. A run that learned
    from preferences is measured on its pairs: the DPO loss, and the accuracy and margin of rewards.
    """
    import sys

    from minillm.data.special import end_of_text_note
    from minillm.errors import UserError
    from minillm.training.chat_evaluation import conversations_of
    from minillm.training.text_evaluation import evaluate_text, run_special, run_text

    sources = [*(data or []), *(files or [])]
    if sources and chat_data:
        raise UserError("--data is a text and --chat-data are conversations: measure on one of them")
    if chat_template and not chat_data:
        raise UserError("--chat-template is the template of conversations: name them with --chat-data")
    opening = settings_of(dtype, device, low_precision=True)
    if not sources:
        examples = conversations_of(model, chat_data or (), chat_template, batch_size)
        if examples is not None:
            return _on_conversations(model, examples, split, bool(chat_data), opening, device)
    from minillm.pretrained import from_pretrained, tokenizer_of

    with waiting("opening the model", plain=False):
        language_model, tokenizer = from_pretrained(model, **opening).to(device), tokenizer_of(model)
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


def _on_conversations(model, examples, split: Split | None, given: bool, opening: dict[str, str], device: str) -> None:
    from minillm.errors import UserError
    from minillm.pretrained import from_pretrained
    from minillm.training.evaluation import evaluate_whole
    from minillm.training.examples import TRAINING, VALIDATION

    if split is Split.all or (given and split is not None):
        raise UserError("--split: of a run's conversations it is train or validation; of --chat-data all are read")
    part = TRAINING if split is Split.train else VALIDATION
    with waiting(f"measuring on all {examples.names[part]}", plain=False):
        result = evaluate_whole(from_pretrained(model, **opening).to(device), examples, part)
    beside = {name: result.figures[name] for name in ("accuracy", "margin") if name in result.figures}
    beside = beside or {"perplexity": result.perplexity}
    measured = "  ".join(f"{name} {value:.4f}" for name, value in {"loss": result.loss, **beside}.items())
    print(f"{examples.objective.counted} {result.tokens:,}  {measured}")
