"""minillm tokenizer"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Optional

import typer

from minillm.cli.options import Command
from minillm.cli.special import OF_A_TEXT, Special
from minillm.cli.streams import read_input
from minillm.errors import UserError
from minillm.files.atomic import refuse_utf_16

app = typer.Typer(no_args_is_help=True, help="Learn a byte-pair vocabulary, and turn text into ids and back.")

_Where = Annotated[
    Path,
    typer.Argument(
        help="A folder or file with a tokenizer: tokenizer.json, vocab.bpe, *.tiktoken, tokenizer.model, *.gguf."
    ),
]
CONFIG_FILE, ADAPTER_CONFIG = "config.json", "adapter_config.json"  # what makes a folder a model's
TOKENIZER_FILE, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"  # what is written
READ_CHARACTERS = 1 << 24  # of a file at a time


@app.command(name="train", cls=Command)
def train(
    files: Annotated[list[str], typer.Argument(help="UTF-8 text files, or the name of a corpus.")],
    out: Annotated[Path, typer.Option(help="The folder to write tokenizer.json to.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens in all, the 256 bytes and special tokens included.")] = 1024,
    pattern: Annotated[
        str,
        typer.Option(
            help="How text is cut into pieces: gpt2, cl100k, smollm, qwen2, o200k, tekken, or a regular expression."
        ),
    ] = "gpt2",
    special: Annotated[
        Optional[list[str]],
        typer.Option(help="A special token, as <|endoftext|>; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Learn a byte-pair vocabulary from texts.

    A text of any length is read in parts that end at line ends; only its distinct pieces are kept
    in memory.
    """
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from minillm.tokenizers import BytePairTokenizer
    from minillm.tokenizers.byte_pair import check_vocabulary_size

    special = special or []
    _check_out(out, files)
    check_vocabulary_size(vocab_size, special)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())  # the seconds pass while texts are read, too
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("merges", total=vocab_size - 256 - len(special))
        tokenizer = BytePairTokenizer.train(
            _texts(files), vocab_size, special, pattern, lambda done: progress.update(task, completed=done)
        )
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    print(f"wrote {out}: {tokenizer.vocab_size} tokens", file=sys.stderr)


@app.command(cls=Command)
def encode(
    tokenizer: _Where,
    text: Annotated[
        Optional[str], typer.Argument(help="The text; standard input if left out.", show_default=False)
    ] = None,
    allow_special: Annotated[bool, typer.Option("--allow-special", help="The same as --special allow.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="The same as --special text.")] = False,
    special: Annotated[Special, OF_A_TEXT] = Special.refuse,
) -> None:
    """Print the ids of a text, separated by spaces."""
    from minillm.data import encode_data

    if allow_special and plain:
        raise UserError("--allow-special and --plain are two ways to read special tokens: choose one")
    opened = _open(tokenizer)
    text = read_input() if text is None else text
    reading = "allow" if allow_special else "text" if plain else special.value
    print(*encode_data(opened, text, reading))


@app.command(cls=Command)
def decode(
    tokenizer: _Where,
    ids: Annotated[
        Optional[list[str]], typer.Argument(help="Ids; standard input if left out.", show_default=False)
    ] = None,
) -> None:
    """Print the text of ids."""
    opened = _open(tokenizer)
    words = read_input().split() if not ids else [word for part in ids for word in part.split()]
    if wrong := [word for word in words if not word.isdecimal()]:
        raise UserError(f'"{wrong[0]}" is no id: ids are whole numbers, separated by spaces')
    sys.stdout.write(opened.decode([int(word) for word in words]))


def _check_out(out: Path, files: list[str]) -> None:
    """Raises UserError if a new tokenizer would take the place of a model's own, or of a text that
    it is to learn from.
    """
    if found := [name for name in (CONFIG_FILE, ADAPTER_CONFIG) if (out / name).is_file()]:
        raise UserError(f"{out} is a model ({found[0]}), whose tokenizer would be lost: name another folder with --out")
    for source in map(Path, files):
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG):
            if source.is_file() and (out / name).is_file() and os.path.samefile(source, out / name):
                raise UserError(
                    f"{source} would be written over by what is learned from it: name another folder with --out"
                )


def _open(path: Path):
    """The tokenizer of a folder or a file, be it a model's."""
    from minillm.pretrained import tokenizer_of
    from minillm.pretrained.gguf import is_gguf
    from minillm.pretrained.llama2c import is_llama2c
    from minillm.tokenizers import load_tokenizer

    inside_of_a_model = path.is_file() and (is_gguf(path) or is_llama2c(path))
    return tokenizer_of(path) if inside_of_a_model else load_tokenizer(path)


def _texts(sources: list[str]) -> Iterator[str]:
    """The texts of corpora by name, and of files in parts that end with a line."""
    from minillm.data.corpora import CORPORA

    for source in sources:
        if source in CORPORA and not Path(source).is_file():
            yield CORPORA[source]()
            continue
        yield from _parts_of_file(Path(source))


def _parts_of_file(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
            refuse_utf_16(binary.peek(4096), str(path))
            if not binary.peek(1).removeprefix(codecs.BOM_UTF8):
                raise UserError(f"{path} is empty: there is nothing to learn from")
            while part := file.read(READ_CHARACTERS):
                yield part + file.readline(READ_CHARACTERS)  # a line may be as long as the file
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name the text files in it, such as {path}/*.txt") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8: {error.reason} at byte {error.start} of a part") from None
