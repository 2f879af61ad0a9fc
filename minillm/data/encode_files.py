"""The ids of a text that need not fit into memory, in a token file: part by part, by several
processes.

    text    part 0 | part 1 | part 2 | ...       cut where the ids stay the same (tokenizers/safe_cuts.py)
    file    BOS ids  ids      ids      ... EOS   as `write_tokens` writes the whole text's, to the byte

In memory are one part for each process, and what it becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.backend.forked import in_order
from minillm.backend.threads import cores
from minillm.data.special import encode_data
from minillm.data.text_files import LARGE, Span, TextFiles
from minillm.data.token_file import dtype_for, write_token_parts
from minillm.errors import UserError


class Reading(NamedTuple):
    """How a large text is read, which changes no result.

    workers: processes, 0 for as many as there are cores where the text has more than LARGE bytes,
    and one elsewhere. report: is called with what is done, how much of it, and how much there is.
    """

    workers: int = 0
    report: Callable[[str, int, int], None] = lambda what, done, total: None

    def workers_for(self, size: int) -> int:
        """How many processes read a text of `size` bytes."""
        return self.workers or (cores() if size > LARGE else 1)


ALONE = Reading(workers=1)


def encode_files(
    path: str | Path,
    files: TextFiles,
    span: Span,
    tokenizer,
    cuts,
    special: str = "",
    reading: Reading = ALONE,
) -> int:
    """Write the ids of a span of the text to a token file, and say how many there are.

    cuts: where the text can be cut, None to read it in one part. special: as in `encode_data`.
    Raises UserError for a text that cannot be read or encoded, or a process that ends; then there
    is no file.
    """
    encode = partial(_encode_part, tokenizer, special)
    parts = map_parts(encode, files, span, cuts, reading, "encoding")
    return write_token_parts(path, _with_ends(parts, tokenizer), tokenizer.vocab_size)


def map_parts(function: Callable, files: TextFiles, span: Span, cuts, reading: Reading, doing: str) -> Iterator:
    """function(text) of each part of a span, in order.

    doing: for messages. A UserError of the function is raised with the place of the part.
    """

    def of_part(part: Span):
        text = files.text(part)
        try:
            return part.end, function(text)
        except UserError as error:
            raise UserError(f"{files.place(part.start)}: {error}") from None

    workers = reading.workers_for(span.end - span.start)
    for end, result in in_order(of_part, files.parts(span, cuts), workers, doing):
        yield result
        reading.report(doing, end - span.start, span.end - span.start)


def _encode_part(tokenizer, special: str, text: str) -> np.ndarray:
    return np.array(encode_data(tokenizer, text, special, around=False), dtype_for(tokenizer.vocab_size))


def _with_ends(parts: Iterable[np.ndarray], tokenizer) -> Iterator[np.ndarray]:
    """The ids of all parts, with those that the tokenizer puts around a text."""
    before, after = tokenizer.surrounding_ids()
    yield np.array(before, np.uint32)
    yield from parts
    yield np.array(after, np.uint32)
