"""The tokens so far, prompt and text: the input of penalties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class History(NamedTuple):
    """ids: for each row all tokens so far, prompt first.

    prompt_lengths: how many of them are the prompt's.

    >>> history = History([[5, 6, 7, 8]], [2])
    >>> history.written(0), history.written_count(0)
    ([7, 8], 2)
    """

    ids: list[Sequence[int]]
    prompt_lengths: list[int]

    def written(self, row: int) -> Sequence[int]:
        """The tokens of a row without its prompt."""
        return self.ids[row][self.prompt_lengths[row] :]

    def written_count(self, row: int) -> int:
        """How many tokens a row has without its prompt."""
        return len(self.ids[row]) - self.prompt_lengths[row]
