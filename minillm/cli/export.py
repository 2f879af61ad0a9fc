"""minillm export"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.plain_values import Choice


class Type(Choice):
    """How numbers are stored."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"


def command(
    model: Annotated[
        str,
        typer.Argument(help="A run folder, a Hugging Face folder or adapter, a GGUF or llama2.c file, or owner/model."),
    ],
    out: Annotated[Path, typer.Argument(help="FILE.gguf, or a folder.")],
    type: Annotated[
        Optional[Type],
        typer.Option(
            help="How numbers are stored: 4, 2, 2 or about 1 byte each; q8_0 is for GGUF alone. As in MODEL if left out, "
            "f32 where that is quantised.",
            show_default=False,
        ),
    ] = None,
    shard_size: Annotated[
        Optional[str],
        typer.Option(help="Of a folder: the largest file of weights, as 5GB or 500MB; one file if left out."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file or the model that is there.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of a LoRA: write it alone, as a folder for peft, and do not merge it.")
    ] = False,
    revision: Annotated[
        Optional[str], typer.Option(help="Of a model on the hub: a branch, tag or commit.", show_default=False)
    ] = None,
) -> None:
    """Write a model for other programs: as a GGUF file for llama.cpp, or as a folder for
    transformers.

    The tokenizer, the chat template and the settings of generation go with it; LoRA is merged.
    Tensors are written one by one, so the model need not fit into memory. What is written appears
    whole or not at all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from minillm.pretrained.export import export

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"writing {out.name}", total=None)
        notes = export(
            model,
            out,
            None if type is None else type.value,
            shard_size=shard_size,
            overwrite=overwrite,
            adapter=adapter,
            revision=revision,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"wrote {out}: {_size(out)}", file=sys.stderr)


def _size(path: Path) -> str:
    """The bytes of a file, or of the files of a folder."""
    from minillm.profiling.memory_advice import format_bytes

    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return format_bytes(sum(file.stat().st_size for file in files)) + (
        f" in {len(files)} files" if path.is_dir() else ""
    )
