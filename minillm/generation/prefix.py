"""A decoder that takes whole texts, and reads only what is new in them.

A conversation is a text that grows: what was said, what is added. Keys and values of a token depend
on the tokens before it alone, so those of the longest common prefix of two texts are the same in
both, and stay in the cache:

    in the cache    <s> user Hi assistant Hello
    the next text   <s> user Hi assistant Hello <end> user More? assistant
    read            |------- kept -------------| |-- 5 tokens are read ----|

A text that differs earlier, such as one whose template takes back what an answer began with, loses
what comes after the first difference, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minillm.generation.decoder import Decoder

CHUNK = 128  # tokens of a text that are read in one pass; between two passes the reader can be stopped


class PrefixReader:
    """ids: what was read and is in the cache. count: how many tokens the model has computed, in
    all.

    A layer with a sliding window keeps its last columns only. Where a text goes back further than
    these, all of it is computed again (layers/cache.py).
    """

    def __init__(self, model):
        self.model, self.count = model, 0
        self._packed: dict = {}
        self.forget()

    def forget(self) -> None:
        """Start with an empty cache. Packed weights are kept."""
        self.ids: list[int] = []
        self._decoder = Decoder(self.model, window="stop", packed=self._packed)

    def read(self, ids: Sequence[int], is_stopped: Callable[[], bool] = lambda: False):
        """A whole text, at least one token  ->  the logits (1, V) of the token after it.

        At least the last token is computed, since its logits are wanted. is_stopped: is called
        before each pass; the reading ends there if it is True, and None is returned. Raises
        ContextFull for more tokens than the context has.
        """
        ids, logits = list(ids), None
        self._cut(min(common_prefix(self.ids, ids), len(ids) - 1))
        while len(self.ids) < len(ids):
            if is_stopped():
                return None
            stop = len(ids) if self._decoder.why_whole else len(self.ids) + CHUNK
            logits = self.append(ids[len(self.ids) : stop])
        return logits

    def append(self, ids: Sequence[int]):
        """The next tokens  ->  the logits (1, V) of the token after them."""
        before = self._decoder.cached
        try:
            logits = self._decoder.read(np.array([ids]))
            self.ids += ids
            self.count += self._decoder.visible - before
        except BaseException:  # the decoder may have them, or not: the next text is read from its start
            self.forget()
            raise
        return logits

    def _cut(self, length: int) -> None:
        """Keep this many tokens."""
        if length == 0:
            self.forget()
        elif length < len(self.ids):
            self._decoder.truncate(len(self.ids) - length)
            del self.ids[length:]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts have in common at their start.

    >>> common_prefix([1, 2, 3, 4], [1, 2, 5])
    2
    """
    return next((at for at, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
