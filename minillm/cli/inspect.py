"""minillm inspect"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.special import OF_A_PROMPT, Special
from minillm.cli.terminal import terminal_width, waiting
from minillm.errors import UserError


def command(
    model: Annotated[
        Path,
        typer.Argument(help="A run folder, a Hugging Face folder or hub model (owner/model), a GGUF or llama2.c file."),
    ],
    text: Annotated[
        Optional[str], typer.Option(help="The text that goes through the model.", show_default=False)
    ] = None,
    chat_data: Annotated[
        Optional[Path],
        typer.Option(
            help="Conversations in place of a text: which tokens train --chat-data learns, and how rows are packed.",
            show_default=False,
        ),
    ] = None,
    line: Annotated[
        Optional[int], typer.Option(help="With --chat-data: which line, by default the first.", show_default=False)
    ] = None,
    chat_template: Annotated[
        str, typer.Option(help="With --chat-data: as of train --chat-template.", show_default=False)
    ] = "",
    special: Annotated[Optional[Special], OF_A_PROMPT] = None,
    tensor: Annotated[
        Optional[str],
        typer.Option(help="A tensor of the table: its code, its gradient's, and a check of it.", show_default=False),
    ] = None,
    layer: Annotated[
        Optional[list[int]],
        typer.Option(help="A block to be shown whole, 0 is the first; may be repeated.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show all blocks whole, or all packed rows.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each tensor, or token and row.")] = False,
    revision: Annotated[
        Optional[str], typer.Option(help="Of a hub model: a branch, a tag, or a commit.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, tf32 or bfloat16 (precision.py).")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda (needs CuPy), or cudasim.")] = "cpu",
) -> None:
    """Look into one forward and backward pass, tensor by tensor.

    For every activation, in the order in which it is computed, and every parameter: shape, mean,
    standard deviation, largest absolute value, norm of the gradient, bytes saved for backward,
    operations. A narrow terminal has fewer columns; --json has all.

    With --tensor NAME the lines of code that compute this tensor and its gradient, which is
    compared with finite differences in float64 on the CPU; exit code 1 if it is wrong.

    With --chat-data FILE no pass is made: it shows the tokens of a conversation, which of them are
    learned, and which conversations share a row.
    """
    from minillm.inspection import inspect_tensor, inspect_text
    from minillm.inspection.table import format_closer, format_table, json_lines
    from minillm.pretrained import from_pretrained, tokenizer_of

    if (text is None) == (chat_data is None):
        raise UserError("what is to be looked at is --text, or a conversation of --chat-data: give one of them")
    if chat_data is not None:
        if tensor is not None or layer:
            raise UserError("--chat-data shows tokens, not tensors: leave out --tensor and --layer")
        return _show_conversation(model, chat_data, line, chat_template, every, json, revision)
    if line is not None or chat_template:
        raise UserError("--line and --chat-template belong to a file of conversations: name it with --chat-data")
    if tensor is not None and (layer or every or json):
        raise UserError("--tensor shows one tensor: leave out --layer, --all and --json, which are about the table")
    if json and (layer or every):
        raise UserError("--json has a line for each tensor: leave out --layer and --all, which are about the table")
    if layer and every:
        raise UserError("--all shows every block: leave out --layer")
    with waiting("opening the model", plain=False):
        language_model, tokenizer = from_pretrained(model, dtype, revision).to(device), tokenizer_of(model, revision)
    reading = special.value if special else "text"
    if tensor is not None:
        with waiting("finite differences"):
            closer = inspect_tensor(language_model, tokenizer, text, tensor, reading)
        print(format_closer(closer, terminal_width()))
        raise typer.Exit(0 if closer.check.passed else 1)
    with waiting("forward and backward", plain=False):
        inspection = inspect_text(language_model, tokenizer, text, reading)
    print(json_lines(inspection) if json else format_table(inspection, layer or [], every, terminal_width()))


def _show_conversation(model, path: Path, line: int | None, template: str, every: bool, json: bool, revision) -> None:
    from minillm.inspection.conversation import conversation_lines, format_conversation, inspect_conversation
    from minillm.pretrained import from_pretrained, tokenizer_of
    from minillm.pretrained.training_template import training_chat

    tokenizer = tokenizer_of(model, revision)
    chat = training_chat(model, template, tokenizer, revision)
    with waiting("reading the conversations", plain=False):
        context_length = from_pretrained(model, revision=revision).config.context_length
        inspection = inspect_conversation(chat, tokenizer, path, line, context_length)
    print(conversation_lines(inspection) if json else format_conversation(inspection, every, terminal_width()))
