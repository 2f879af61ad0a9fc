"""Files as one text that need not fit into memory: a row of bytes, read where it is needed.

    files     a.txt   "one tw"          b.txt  "o three"
    text      o n e _ t w o _ t h r e e             offsets 0 to 13; a mark (BOM) at a file's start is left out

Everything is the same as with `load_text` and `split_text`, which have the whole text in memory.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.data.corpora import TRAIN_FRACTION, reading, refuse_empty
from minillm.data.special import END_OF_TEXT
from minillm.errors import UserError
from minillm.files.atomic import refuse_utf_16

LARGE = 50_000_000  # bytes from which on a text is read in parts, by several processes
PART = 1 << 21  # bytes of a part, at most where it can be cut
WINDOW = 1 << 12  # bytes before the end of a part in which a cut is looked for first


class Span(NamedTuple):
    """Bytes [start, end) of a text."""

    start: int
    end: int


class TextFiles:
    """UTF-8 files, one behind the other. size: bytes.

    Raises UserError for a file that is missing, empty, unreadable or UTF-16.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = [Path(path) for path in paths]
        self._marks, self._ends = [], []
        end = 0
        for path in self.paths:
            mark, size = _look_at(path)
            end += size - mark
            self._marks.append(mark)
            self._ends.append(end)
        self.size = end

    def bytes(self, start: int, end: int) -> bytes:
        """Bytes [start, end). Raises UserError where a file has become shorter."""
        parts = []
        while start < end:
            path, at = self._place(start)
            length = min(end, self._ends[bisect_right(self._ends, start)]) - start
            with path.open("rb") as file:
                file.seek(at)
                part = file.read(length)
            if len(part) < length:
                raise UserError(f"{path} has become shorter while it was read")
            parts.append(part)
            start += length
        return b"".join(parts)

    def text(self, span: Span) -> str:
        """The text of a span. Raises UserError, with file and byte, for what is not UTF-8."""
        data = self.bytes(*span)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            path, at = self._place(span.start + error.start)
            raise UserError(
                f"{path} is not valid UTF-8: byte 0x{data[error.start]:02x} at offset {at}; save it as UTF-8 first"
            ) from None

    def place(self, offset: int) -> str:
        """Where a part begins, for messages about it."""
        path, at = self._place(offset)
        return f"{path}, in the text from byte {at:,} on"

    def _place(self, offset: int) -> tuple[Path, int]:
        """(file, byte in it) of an offset."""
        number = bisect_right(self._ends, offset)
        return self.paths[number], offset - (self._ends[number - 1] if number else 0) + self._marks[number]

    def parts(self, span: Span, cuts, part: int = 0) -> Iterator[Span]:
        """The span in parts of up to `part` bytes (0: PART), cut where `cuts.last` says.

        A part without such a place becomes longer, until there is one. cuts: None for one part.
        """
        start, end = span
        while start < end:
            stop = end if cuts is None else self._cut_before(start, start + (part or PART), end, cuts)
            yield Span(start, stop)
            start = stop

    def _cut_before(self, start: int, wanted: int, end: int, cuts) -> int:
        """The last place to cut between `start` and `wanted`; where there is none, the last one of
        the part that follows, and so on.
        """
        looked_at = start
        while wanted < end:
            for begin in (max(looked_at, wanted - WINDOW), looked_at):
                if place := self._last_cut(begin, wanted, cuts, begin == start):
                    return place
            looked_at = max(start, wanted - 4 * cuts.reach - 8)  # the token that ends there may begin before
            wanted += PART
        return end

    def _last_cut(self, begin: int, end: int, cuts, is_whole: bool) -> int:
        """The last place to cut in a window, 0 where there is none. is_whole: whether no token
        reaches into the window from before.
        """
        data = self.bytes(begin, end)
        skipped = next((index for index, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
        text = data[skipped:].decode("utf-8", "surrogateescape")
        cut = cuts.last(text)
        if not cut or (cut < cuts.reach and not is_whole):
            return 0
        return begin + skipped + len(text[:cut].encode("utf-8", "surrogateescape"))

    # ---------------------------------------------------------------------- the training text and the validation text

    @cached_property
    def split(self) -> tuple[Span, Span]:
        """As `split_text`: the first part and the rest, by characters."""
        cut = self._offset_of_character(int(self._characters(self.size) * TRAIN_FRACTION))
        for token in END_OF_TEXT:
            first = max(cut - len(token) + 1, 0)
            found = self.bytes(first, min(cut + len(token) - 1, self.size)).rfind(token.encode())
            if 0 <= found and first + found < cut:
                cut = first + found
        return Span(0, cut), Span(cut, self.size)

    def _blocks(self, end: int, size: int = PART) -> Iterator[tuple[int, np.ndarray]]:
        """(offset, where characters begin) of one block after the other."""
        for start in range(0, end, size):
            block = np.frombuffer(self.bytes(start, min(start + size, end)), np.uint8)
            yield start, (block & 0xC0) != 0x80

    def _characters(self, end: int) -> int:
        """How many characters begin before an offset."""
        return sum(int(np.count_nonzero(begins)) for _, begins in self._blocks(end))

    def _offset_of_character(self, number: int) -> int:
        for start, begins in self._blocks(self.size):
            count = int(np.count_nonzero(begins))
            if number < count:
                return start + int(np.flatnonzero(begins)[number])
            number -= count
        return self.size


def large_files(sources: Iterable[str]) -> TextFiles | None:
    """The files that are named, if together they have more than LARGE bytes; None otherwise, and
    where a corpus is named.
    """
    paths = [Path(source) for source in sources]
    if not all(path.is_file() for path in paths) or sum(path.stat().st_size for path in paths) <= LARGE:
        return None
    return TextFiles(paths)


def _look_at(path: Path) -> tuple[int, int]:
    """(bytes of the mark at its start, bytes) of a file."""
    with reading(path):
        with path.open("rb") as file:
            start = file.read(4096)
        size = path.stat().st_size
    refuse_utf_16(start, str(path))
    mark = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
    refuse_empty(path, size - mark)
    return mark, size
