"""How texts are shown: streamed, as JSON lines, with traces, or side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from minillm.cli.terminal import fold, terminal_width, waiting
from minillm.errors import MissingExtra, UserError
from minillm.generation.text import Completion

WIDE = 96  # columns from which on a trace has all its words
NAMES_WIDTH = 24  # columns for the names of strategies
TITLE = "distinct-1, -2, -3; repeated 4-grams; log p and entropy of the model: means over the tokens, in nats; T: temperature"


class Shown(NamedTuple):
    """What is shown besides the text, on standard error: how each token was chosen, what the model
    gave it.
    """

    trace: bool
    logprobs: bool


def stream_text(completions: Iterator[list[Completion]], tokenizer, prompt: str, shown: Shown) -> list[Completion]:
    """One text, as it is drawn; returned, too, as the only one of a list."""
    characters = tokens = 0
    first = next(completions)  # errors come before any text
    sys.stdout.write(prompt)
    for (completion,) in chain([first], completions):
        sys.stdout.write(completion.text[characters:])
        sys.stdout.flush()
        characters = len(completion.text)
        tokens = _tell(completion, tokens, tokenizer, shown)
    sys.stdout.write("\n")
    sys.stdout.flush()
    if found := completion.speculation:
        note = f"{found.accepted_share:.0%} of {found.proposed} guesses accepted, {found.tokens_per_pass:.2f} tokens a pass"
        print_note(note)
    return [completion]


def print_texts(completions: Iterator[list[Completion]], tokenizer, prompt: str, shown: Shown) -> list[Completion]:
    """Several texts, when they are over, each under a line of its own; returned, too."""
    *_, latest = completions
    for number, completion in enumerate(latest, start=1):
        score = "" if completion.score is None else f", score {completion.score:.4f}"
        print(f"--- {number} of {len(latest)}{score}", flush=True)
        print(prompt + completion.text, flush=True)
        _tell(completion, 0, tokenizer, shown)
    return latest


def print_json_lines(completions: Iterator[list[Completion]], prompt: str, shown: Shown) -> list[Completion]:
    """A line of JSON for each text; the texts are returned, too."""
    *_, latest = completions
    for completion in latest:
        print(json.dumps(as_json(completion, prompt, shown), ensure_ascii=False), flush=True)
    return latest


def _tell(completion: Completion, start: int, tokenizer, shown: Shown) -> int:
    """Print the traces and log-probabilities of the tokens from `start` on; returns where to
    continue.
    """

    def text_of(token: int) -> str:
        return tokenizer.piece(token) if token < tokenizer.vocab_size else ""

    known = min(
        (len(kept) for kept, wanted in zip((completion.traces, completion.logprobs), shown) if wanted), default=0
    )
    width = terminal_width()
    for at in range(start, known):
        if shown.trace:
            lines = completion.traces[at].lines(text_of, short=width < WIDE)
            print("", *(fold(line, width) for line in lines), sep="\n", file=sys.stderr)
        if shown.logprobs:
            print(f"{completion.logprobs[at]:9.4f}  {text_of(completion.ids[at])!r}", file=sys.stderr)
    return known


def as_json(completion: Completion, prompt: str, shown: Shown) -> dict:
    """A text as a line of JSON."""
    line = {"prompt": prompt, "text": completion.text, "ids": completion.ids, "reason": completion.reason}
    if completion.score is not None:
        line["score"] = completion.score
    if shown.logprobs:
        line["logprobs"] = completion.logprobs
    if shown.trace:
        line["trace"] = [token.as_json() for token in completion.traces]
    return line


def show_comparison(
    model, tokenizer, prompt: str, ids, max_tokens: int, chart: Path, *, seed: int, samples: int, eos_ids, stop
) -> None:
    """Every strategy's first text, the table of figures, means of all its texts, and the chart."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from minillm.generation.comparison import compare, draw, table

    if not chart.parent.is_dir():
        raise UserError(f"--chart {chart}: there is no folder {chart.parent}")
    with waiting("writing by every strategy"):
        results = compare(model, tokenizer, ids, max_tokens, seed, samples, eos_ids=eos_ids, stop=stop)
    console = Console(highlight=False)
    texts = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    texts.add_column(overflow="fold", max_width=NAMES_WIDTH)
    texts.add_column(overflow="fold")
    for result in results:
        texts.add_row(Text(result.name, style="bold"), Text(prompt + result.text))
    console.print(texts)
    heads, rows = table(results)
    console.print(Text(TITLE))
    figures = Table(collapse_padding=True, box=box.SIMPLE_HEAD, pad_edge=False)
    for index, head in enumerate(heads):
        figures.add_column(head, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        figures.add_row(*row)
    console.print(figures)
    try:
        draw(results, chart, samples)
        print(f"chart: {chart}", file=sys.stderr)
    except MissingExtra as error:
        print_note(error)


def print_note(text: object) -> None:
    """A remark on standard error."""
    print(f"({text})", file=sys.stderr)
