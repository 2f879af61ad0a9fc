"""Stream tokens into text, holding back incomplete UTF-8 and possible stop strings.

A text ends at an end-of-sequence token, at a stop string, at its maximum length, or when the time
is up. A stop string may start in one token and end in another, or inside one. So text that may
become a stop string is held back until that is decided:

    stop "END"      tokens " the", " E", "ND", "!"      shown " the", " ", -, -     the text is " the "

Incomplete characters are held back by the tokenizer's own stream (minillm/tokenizers).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.generation.decoder import left_padded
from minillm.generation.generate import generate
from minillm.sampler.probability import log_softmax
from minillm.sampler.sampler import Sampler
from minillm.sampler.trace import TokenTrace

if TYPE_CHECKING:
    from minillm.generation.speculative import Statistics


@dataclass
class Completion:
    """A text during and after generation.

    ids: its tokens, including the one that ended it. text: what may be shown; complete once
    `reason` is set: "end" (an end-of-sequence token), "stop" (a stop string, which is not part of
    the text), "length", or "time". logprobs: of each token, in nats, by the model's own
    probabilities. traces: a record of the sampler for each token. score: from a beam search.
    speculation: statistics of the draft. The last four are set only when they were requested.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    traces: list[TokenTrace] = field(default_factory=list)
    reason: str | None = None
    score: float | None = None
    speculation: Statistics | None = None


def write(
    model,
    tokenizer,
    prompts: list[Sequence[int]],
    max_tokens: int | Sequence[int],
    sampler: Sampler | None = None,
    *,
    eos_ids: Collection[int] = (),
    stop: Sequence[str] = (),
    max_time: float | None = None,
    trace: bool = False,
    logprobs: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[list[Completion]]:
    """Continue each of the prompts (lists of ids); yields all completions after every token and at
    the end.

    max_tokens: the maximum length of a text, one number for all or one for each prompt. eos_ids,
    stop: ids and strings that end a text. max_time: seconds from the first call, after which no
    more tokens are drawn. trace, logprobs: fill in these fields of the completions. Raises
    UserError for an empty stop string or an empty prompt.
    """
    ids, padding = left_padded([list(prompt) for prompt in prompts])
    recorder = RecordingSampler(sampler or Sampler(), trace, logprobs)
    over = np.zeros(len(prompts), bool)
    longest = int(np.max(max_tokens))
    tokens = generate(
        model, ids, longest, recorder, eos_ids=eos_ids, padding=padding if padding.any() else None, over=over
    )
    ends = dict(eos_ids=eos_ids, stop=stop, max_time=max_time, clock=clock)
    return decode_texts(tokens, tokenizer, prompts, over, max_tokens, recorder=recorder, **ends)


def decode_texts(
    tokens: Iterator[np.ndarray],
    tokenizer,
    prompts: list[Sequence[int]],
    over: np.ndarray,
    max_tokens: int | Sequence[int],
    *,
    eos_ids: Collection[int] = (),
    stop: Sequence[str] = (),
    max_time: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    recorder: RecordingSampler | None = None,
) -> Iterator[list[Completion]]:
    """Decode an iterator of tokens (B,) that continue B prompts; sets `over` (B,) bool where a text
    ends.

    The other arguments are those of `write`.
    """
    started, limits = clock(), np.broadcast_to(max_tokens, len(prompts))
    completions, streams = [Completion() for _ in prompts], [TextStream(tokenizer, stop, prompt) for prompt in prompts]
    for token in tokens:
        for row in np.flatnonzero(~over):
            _push(completions[row], streams[row], int(token[row]), eos_ids)
            if recorder:
                recorder.record(row, completions[row])
            over[row] = completions[row].reason is not None or len(completions[row].ids) >= limits[row]
        yield completions
        if over.all() or (max_time is not None and clock() - started >= max_time):
            break
    for completion, stream, limit in zip(completions, streams, limits):
        if completion.reason != "stop":
            completion.text += stream.finish()
        if completion.reason is None:
            cut_off = "length" if len(completion.ids) >= limit else "time"
            completion.reason = "stop" if stream.stopped else cut_off
    yield completions


def _push(completion: Completion, stream: TextStream, token: int, eos_ids: Collection[int]) -> None:
    completion.ids.append(token)
    if token in eos_ids:
        completion.reason = "end"
        return
    completion.text += stream.push(token)
    if stream.stopped:
        completion.reason = "stop"


class TextStream:
    """Turns the ids of one text, one by one, into text that may be shown.

    prompt: the ids before it, which are not shown. They matter for tokenizers that strip the space
    at the start of a text: the first word after a prompt keeps its space. An id outside the
    tokenizer's vocabulary has no text: many models have a few more logits than tokens.
    """

    def __init__(self, tokenizer, stop: Sequence[str] = (), prompt: Sequence[int] = ()):
        check_stop_strings(stop)
        self._decoder, self._known, self._stop = tokenizer.stream(), tokenizer.vocab_size, tuple(stop)
        for token in prompt:
            self._decode(int(token))
        self._decoder.start_here()
        self._held = ""
        self.stopped_by: str | None = None  # the stop string at which the text ended

    @property
    def stopped(self) -> bool:
        """Whether the text ended at a stop string."""
        return self.stopped_by is not None

    def push(self, token: int) -> str:
        """Add an id; returns text that can be no part of a stop string.

        Sets `stopped_by` at a stop string.
        """
        return self._release(self._decode(token))

    def finish(self) -> str:
        """The rest of the text after the last id, up to a stop string in it."""
        text = self._release(self._decoder.finish())
        text, self._held = text + ("" if self.stopped else self._held), ""
        return text

    def _decode(self, token: int) -> str:
        return self._decoder.push(token) if token < self._known else ""

    def _release(self, text: str) -> str:
        self._held += text
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.stopped_by = min(found)
            shown, self._held = self._held[:at], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown


def check_stop_strings(stop: Sequence[str]) -> None:
    """Raises UserError for a single text instead of several, and for an empty one."""
    if isinstance(stop, str):
        raise UserError(f"stop is {stop!r}, which would be taken letter by letter: write [{stop!r}]")
    if not all(stop):
        raise UserError("a stop string is empty: every text would end at once; leave it out")


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text that a stop string begins with.

    >>> _overlap("the EN", "END")
    2
    """
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class RecordingSampler:
    """A sampler that keeps the trace and the log-probability of drawn tokens, if requested."""

    def __init__(self, sampler: Sampler, trace: bool, logprobs: bool):
        self._sampler, self._trace, self._logprobs = sampler, trace, logprobs
        self._traces: list[TokenTrace] = []
        self._last: np.ndarray | None = None

    def sample(self, logits, history) -> np.ndarray:
        if self._trace:
            self._traces = self._sampler.trace(logits, history)
            tokens = np.array([trace.token for trace in self._traces])
        else:
            tokens = self._sampler.sample(logits, history)
        if self._logprobs:
            self._last = np.take_along_axis(log_softmax(np.float32(to_host(logits))), tokens[:, None], axis=1)[:, 0]
        return tokens

    def record(self, row: int, completion: Completion) -> None:
        """Add trace and log-probability of a row's last token to its completion."""
        if self._trace:
            completion.traces.append(self._traces[row])
        if self._last is not None:
            completion.logprobs.append(float(self._last[row]))
