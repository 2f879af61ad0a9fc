"""The texts that tabs are writing: a decoder for each, which takes back and reads what differs.

A tab sends the whole text each time, so nothing is lost where its decoder was dropped: it is made
again from the ids. The logits are those of `minillm generate`, to the last bit, because they are
computed by the same passes: one over the prompt, one for each token after it, and one over what is
left where the context was full and its oldest quarter slid away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from minillm.backend.arrays import to_host
from minillm.generation.decoder import Decoder, visible_after_slide
from minillm.sampler.probability import log_softmax

MOST_TEXTS = 4  # decoders in memory
KEPT_BYTES = 64 * 2**20  # of logits of one text
ROWS = 64  # of logits of a prompt at a time


class Texts:
    """A Text for each session; beyond MOST_TEXTS, that which was used least recently is dropped."""

    def __init__(self, model):
        self._model, self._packed = model, {}
        self._texts: OrderedDict[str, Text] = OrderedDict()

    def of(self, session: str) -> Text:
        """The text of a session, a new one if it has none."""
        text = self._texts.pop(session, None) or Text(self._model, self._packed)
        self._texts[session] = text
        while len(self._texts) > MOST_TEXTS:
            self._texts.popitem(last=False)
        return text


class Text:
    """A prompt and what was written after it, with the logits of each place that was visited."""

    def __init__(self, model, packed: dict | None = None):
        """packed: as for Decoder."""
        self._model, self._packed = model, {} if packed is None else packed
        self._begin([])

    def logits(self, prompt: Sequence[int], written: Sequence[int]) -> np.ndarray:
        """The logits (V,) of the token after prompt and written.

        What was computed before is not computed again. Raises UserError for ids outside the
        vocabulary.
        """
        prompt, written = list(prompt), list(written)
        if prompt != self._prompt:
            self._begin(prompt)
        known = self._logits.get(tuple(written))
        if known is not None:
            self._logits.move_to_end(tuple(written))
            return known
        try:
            self._read_up_to(written)
        except BaseException:
            self._begin([])  # the decoder may have read a part
            raise
        return self._logits[tuple(written)]

    def prompt_logprobs(self, prompt: Sequence[int]) -> list[float | None]:
        """The log-probability of each token of a prompt after those before it, in nats; None for
        the first that the model sees, and for what it does not see.
        """
        self.logits(prompt, [])
        seen = list(prompt)[-self._model.config.context_length :]
        decoder = Decoder(self._model, packed=self._packed)
        if decoder.why_whole is not None or len(seen) == 1:
            return [None] * len(prompt)
        x = decoder.hidden(np.array([seen]))[0]  # (T, C)
        found = []
        for start in range(0, len(seen) - 1, ROWS):
            rows = slice(start, min(start + ROWS, len(seen) - 1))
            following = np.array(seen[rows.start + 1 : rows.stop + 1])
            log_p = log_softmax(to_host(decoder.logits(x[rows])))  # (n, V)
            found += log_p[np.arange(len(following)), following].tolist()
        return [None] * (len(prompt) - len(found)) + found

    # -------------------------------------------------------------------------------- step by step

    def _begin(self, prompt: list[int]) -> None:
        self._prompt, self._written, self._decoder = prompt, [], None
        self._logits: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()

    def _read_up_to(self, written: list[int]) -> None:
        """Bring the decoder to the end of prompt and written, by the passes of plain generation."""
        if not self._take_back(written):
            start = self._last_pass(len(written))[0]
            self._decoder, self._written = Decoder(self._model, packed=self._packed), written[:start]
            visible = self._last_pass(start)[1]
            self._keep(self._decoder.read(np.array([(self._prompt + self._written)[-visible:]])))
        for token in written[len(self._written) :]:
            self._written = [*self._written, token]
            self._keep(self._decoder.read(np.array([[token]])))

    def _take_back(self, written: list[int]) -> bool:
        """Take back what differs from `written`, and at least one token of it, whose logits are
        wanted.

        False where the decoder cannot.
        """
        if self._decoder is None or not written:
            return False
        pairs = enumerate(zip(self._written, written[:-1]))
        longest = min(len(self._written), len(written) - 1)
        common = next((at for at, (ours, wanted) in pairs if ours != wanted), longest)
        if self._last_pass(len(self._written))[0] > common:  # the tokens before slid away
            return False
        self._decoder.truncate(len(self._written) - common)
        self._written = self._written[:common]
        return self._decoder.why_whole is not None or self._decoder.cached == self._decoder.visible

    def _last_pass(self, count: int) -> tuple[int, int]:
        """See `last_pass`."""
        return last_pass(self._model.config.context_length, len(self._prompt), count)

    def _keep(self, logits) -> None:
        """Remember logits (1, V) of the place after what is written; the oldest are dropped."""
        row = np.array(to_host(logits)[0])
        self._logits[tuple(self._written)] = row
        while len(self._logits) * row.nbytes > KEPT_BYTES:
            self._logits.popitem(last=False)


def last_pass(context: int, prompt_length: int, count: int) -> tuple[int, int]:
    """After a prompt and `count` tokens: after how many of these all visible tokens were last read
    in one pass (0: with the prompt, else where the context slid), and how many are visible now.

    >>> last_pass(8, 6, 0), last_pass(8, 6, 2), last_pass(8, 6, 3), last_pass(8, 6, 4)
    ((0, 6), (0, 8), (3, 7), (3, 8))
    """
    start, visible = 0, min(prompt_length, context)
    for number in range(1, count + 1):
        if visible < context:
            visible += 1
        else:
            start, visible = number, visible_after_slide(context)
    return start, visible
