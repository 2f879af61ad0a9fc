"""minillm tokenizer"""

from __future__ import annotations

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

app = typer.Typer(no_args_is_help=True, help="Learn a byte-pair vocabulary, and turn text into ids and back.")

_Where = Annotated[
    Path,
    typer.Argument(
        help="A folder or file with a tokenizer: tokenizer.json, vocab.bpe, *.tiktoken, tokenizer.model, *.gguf."
    ),
]
CONFIG_FILE, ADAPTER_CONFIG = "config.json", "adapter_config.json"  # what makes a folder a model's
TOKENIZER_FILE, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"  # what is written
WORKERS = typer.Option(help="Processes; 0: as many as there are cores for files above 50 MB, else one.", min=0)


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
    keep: Annotated[
        int,
        typer.Option(
            help="Count at most so many distinct pieces: the rarest are dropped while the text is read, which bounds "
            "the memory and may change the last tokens. 0: all are counted.",
            min=0,
        ),
    ] = 0,
    workers: Annotated[int, WORKERS] = 0,
) -> None:
    """Learn a byte-pair vocabulary from texts.

    A text of any length is read in parts; only its distinct pieces are kept in memory, in all about
    50 bytes for each.
    """
    from rich.console import Console

    from minillm.cli.text_progress import say_if_alone, text_progress
    from minillm.data.encode_files import Reading
    from minillm.tokenizers.byte_pair import check_vocabulary_size
    from minillm.tokenizers.patterns import compile_pattern

    special = special or []
    _check_out(out, files)
    check_vocabulary_size(vocab_size, special)
    compile_pattern(pattern)
    say_if_alone(workers)
    with text_progress(Console(stderr=True)) as report:
        tokenizer = learn(files, vocab_size, special, pattern, keep, Reading(workers, report))
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
    file: Annotated[
        Optional[Path], typer.Option(help="A UTF-8 text file of any length; with --out.", show_default=False)
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(help="Write the ids of --file to this .npy file, 16 bits each or 32.", show_default=False),
    ] = None,
    workers: Annotated[int, WORKERS] = 0,
) -> None:
    """Print the ids of a text, separated by spaces.

    With --file and --out write those of a file, which may be larger than the memory.
    """
    from minillm.data import encode_data

    if allow_special and plain:
        raise UserError("--allow-special and --plain are two ways to read special tokens: choose one")
    if (file is None) != (out is None):
        raise UserError("--file names a text and --out the file for its ids: give both")
    reading = "allow" if allow_special else "text" if plain else special.value
    if file is not None:
        if text is not None:
            raise UserError("there are two texts, the argument and --file: leave one out")
        return _encode_file(_open(tokenizer), file, out, reading, workers)
    opened = _open(tokenizer)
    print(*encode_data(opened, read_input() if text is None else text, reading))


def _encode_file(tokenizer, file: Path, out: Path, special: str, workers: int) -> None:
    from rich.console import Console

    from minillm.cli.text_progress import say_if_alone, text_progress
    from minillm.data.encode_files import Reading, encode_files
    from minillm.data.text_files import Span, TextFiles
    from minillm.tokenizers.safe_cuts import safe_cuts

    if not file.exists():
        raise UserError(f"{file} does not exist")
    texts, cuts, console = TextFiles([file]), safe_cuts(tokenizer), Console(stderr=True)
    if out.exists() and file.samefile(out):
        raise UserError(f"{file} would be written over by its ids: name another file with --out")
    if cuts is None:
        print("no place is known where this tokenizer's texts can be cut: the file is read whole", file=sys.stderr)
    say_if_alone(workers)
    with text_progress(console) as report:
        count = encode_files(out, texts, Span(0, texts.size), tokenizer, cuts, special, Reading(workers, report))
    print(f"wrote {out}: {count:,} tokens of {texts.size:,} bytes", file=sys.stderr)


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


def learn(sources: list[str], vocab_size: int, special: list[str], pattern: str, keep: int, reading):
    """A tokenizer of byte pairs from corpora by name, and from files that are read part by part."""
    from minillm.tokenizers import BytePairTokenizer
    from minillm.tokenizers.word_counts import WordCounter

    counter, merges = WordCounter(keep), vocab_size - 256 - len(special)
    for table in _word_tables(sources, pattern, reading):
        counter.add(table)

    def report(done: int) -> None:
        reading.report("merging", done, merges)

    return BytePairTokenizer.train_on_counts(counter.table(), vocab_size, special, pattern, report)


def _word_tables(sources: list[str], pattern: str, reading) -> Iterator:
    """The counted pieces of corpora by name, and of files part by part."""
    from minillm.data.corpora import CORPORA
    from minillm.data.encode_files import map_parts
    from minillm.data.text_files import Span, TextFiles
    from minillm.tokenizers.patterns import PATTERNS
    from minillm.tokenizers.safe_cuts import LineEnds, SafeCuts
    from minillm.tokenizers.word_counts import count_in_parts, count_words

    cuts = SafeCuts() if pattern in PATTERNS else LineEnds()
    for source in sources:
        if source in CORPORA and not Path(source).is_file():
            yield count_in_parts([CORPORA[source]()], pattern)
            continue
        file = TextFiles([source])

        def count(text: str):
            return count_words([text], pattern)

        yield from map_parts(count, file, Span(0, file.size), cuts, reading, "counting")
