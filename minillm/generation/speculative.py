"""Speculative decoding: several tokens from one pass of the model, with exactly the model's
distribution.

One pass over k tokens takes less time than k passes over one token, because every pass reads all
weights (how much less depends on the machine: `python -m benchmarks.speculative`). So a cheap
*draft* proposes the next k tokens x_1 ... x_k, and the model (the *target*) reads them in one pass,
which gives its own distributions p_1 ... p_k at these places and p_{k+1} after them. Let q_i be the
distribution that x_i was drawn from. The proposals are verified in order:

    accept x_i with the probability min(1, p_i(x_i) / q_i(x_i))
    at the first rejection: draw a token from the residual distribution, max(p_i - q_i, 0)
    divided by its sum, and stop
    if all are accepted: draw one more token from p_{k+1}

The result has the target's distribution. A token x can be written at place i in two ways: proposed
and accepted, with the probability

    q(x) min(1, p(x) / q(x)) = min(q(x), p(x)),

or from the residual distribution after a rejection. A rejection has the probability 1 - sum_y
min(q(y), p(y)) = sum_y (p(y) - min(q(y), p(y))) = sum_y max(p(y) - q(y), 0), which is the sum that
the residual is divided by. Together, for any draft,

    min(q(x), p(x)) + max(p(x) - q(x), 0) = p(x)

A good draft makes it fast; a bad one is only slow. Each pass of the target gives 1 to k + 1 tokens.

There are two drafts: a smaller model with the same vocabulary, and *prompt look-up*, which proposes
what followed the last tokens when they occurred before, with certainty (q = 1). Temperature, cuts
and penalties apply to p and q alike.

Sources: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding"
(2023), algorithm 1; Chen et al., "Accelerating Large Language Model Decoding with Speculative
Sampling" (2023); prompt look-up: Saxena (2023), github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np

from minillm.backend.random_streams import stream
from minillm.errors import UserError
from minillm.generation.decoder import Decoder
from minillm.models.language_model import LanguageModel
from minillm.sampler.draw import multinomial
from minillm.sampler.history import History
from minillm.sampler.sampler import Sampler


def speculative_generate(
    model,
    ids,
    max_new_tokens: int,
    *,
    draft: LanguageModel | PromptLookup,
    lookahead: int = 4,
    sampler: Sampler | None = None,
    eos_ids: Collection[int] = (),
    over=None,
) -> Speculation:
    """As `generate` for ids (1, T), with several tokens for each pass of the model; yields ids
    (1,).

    draft: a model with the same vocabulary, or PromptLookup(). lookahead: the maximum number of
    tokens in a proposal. sampler: its `probabilities` give p and q. The random numbers of pass i
    come from the stream (its seed, "speculative", i, 0), so the same seed gives the same text. It
    is not the text that `generate` writes with this seed, but has the same distribution; at
    temperature 0 it is the same text. eos_ids, over (1,): as for `generate`.

    The context slides as in `generate`: near its end fewer tokens are proposed, so that it never
    slides earlier. Raises UserError for more than one row (rows would accept different numbers of
    tokens), an empty prompt, a draft with another vocabulary, or a sampler whose probabilities
    depend on more than the text (XTC draws a random number, mirostat adapts).
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise UserError(f"the prompt has shape {ids.shape}: at least one token is needed, as (1, T), to continue from")
    if len(ids) != 1:
        raise UserError(f"speculative decoding continues one text at a time, not {len(ids)}: call it for each row")
    if not isinstance(lookahead, Integral) or isinstance(lookahead, bool) or lookahead < 1:
        raise UserError(f"lookahead is {lookahead}: it must be a whole number of at least 1")
    if not isinstance(draft, PromptLookup) and draft.config.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the draft has {draft.config.vocab_size} tokens in its vocabulary and the model {model.config.vocab_size}: "
            "they must share one tokenizer"
        )
    sampler = sampler or Sampler()
    for setting in ("xtc_probability", "mirostat_tau"):
        if getattr(sampler.settings, setting):
            raise UserError(
                f"{setting} is set: speculative decoding cannot keep its distribution; use one without the other"
            )
    probabilities = Probabilities(sampler, ids.shape[1])
    proposer = draft if isinstance(draft, PromptLookup) else DraftModel(draft, probabilities)
    over = np.zeros(1, bool) if over is None else over
    return Speculation(model, ids, max_new_tokens, proposer, lookahead, probabilities, eos_ids, over)


class Probabilities:
    """The sampler's distributions after texts that begin with the same prompt."""

    def __init__(self, sampler: Sampler, prompt_length: int):
        self.sampler, self.prompt_length = sampler, prompt_length

    def __call__(self, logits, texts: list[list[int]]) -> np.ndarray:
        """The logits (N, V) after each of N texts  ->  probabilities (N, V)"""
        return self.sampler.probabilities(logits, History(texts, [self.prompt_length] * len(texts)))


@dataclass
class Statistics:
    """Counts of passes and tokens so far."""

    passes: int = 0  # of the target, including the one over the prompt
    proposed: int = 0
    accepted: int = 0
    written: int = 0

    @property
    def accepted_share(self) -> float:
        """accepted / proposed, 0 if nothing was proposed.

        Tokens after a rejected one count as not accepted.
        """
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_per_pass(self) -> float:
        return self.written / self.passes if self.passes else 0.0


class Round(NamedTuple):
    """One pass of the model over k proposals.

    p, q: the probability of each proposal by the model and by the draft. numbers: the random
    numbers that accept or reject them. written: the accepted ones and one more token.
    """

    proposals: list[int]
    p: list[float]
    q: list[float]
    numbers: list[float]
    written: list[int]


class Speculation:
    """An iterator over the tokens, with `statistics` of the draft; see `speculative_generate`.

    rounds: a list, which gets a Round for each pass; by default None, and nothing is recorded.
    """

    rounds: list[Round] | None = None

    def __init__(self, model, ids, max_new_tokens, proposer, lookahead, probabilities: Probabilities, eos_ids, over):
        self.statistics = Statistics()
        self._decoder, self._proposer, self._probabilities = Decoder(model), proposer, probabilities
        self._prompt, self._max_new_tokens, self._lookahead = ids, max_new_tokens, lookahead
        self._eos_ids, self._over = eos_ids, over
        self._tokens = self._write()

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._tokens)

    def _write(self):
        text, unread = self._prompt[0].tolist(), self._prompt.shape[1]
        while self.statistics.written < self._max_new_tokens:
            left = self._max_new_tokens - self.statistics.written
            count = max(0, min(self._lookahead, left - 1, self._decoder.remaining - unread))
            written = self._one_pass(text, unread, count)
            text += written
            unread = 1  # the last token: its logits are not known yet
            for token in written:
                self.statistics.written += 1
                yield np.array([token])
                self._over |= token in self._eos_ids
                if self._over.all():
                    return

    def _one_pass(self, text: list[int], unread: int, count: int) -> list[int]:
        """Propose up to `count` tokens, read them after the text's `unread` last ones, return the
        tokens to write.
        """
        statistics, seed = self.statistics, self._probabilities.sampler.settings.seed
        uniform = stream(seed, "speculative", statistics.passes, 0).uniform(2 * count + 1)
        proposals, q = self._proposer.propose(text, count, uniform[:count], self._decoder.model.config.vocab_size)
        logits = self._decoder.read_last(np.array([text[-unread:] + proposals]), len(proposals) + 1)[0]  # (k + 1, V)
        texts = [text + proposals[:i] for i in range(len(proposals) + 1)]
        p = self._probabilities(logits, texts)  # (k + 1, V)
        written = verify(p, q, proposals, uniform[count:])
        self._decoder.truncate(len(proposals) - (len(written) - 1))
        statistics.passes += 1
        statistics.proposed += len(proposals)
        statistics.accepted += len(written) - 1
        if self.rounds is not None:
            self.rounds.append(round_of(p, q, proposals, uniform[count:], written))
        return written


def verify(p, q, proposals: list[int], uniform) -> list[int]:
    """The accepted proposals, and one more token: drawn from the residual, or after all of them.

    p (k + 1, V): the target's probabilities. q (k, V): those that the proposals were drawn from.
    uniform: at least k + 1 numbers in [0, 1); the first k accept or reject, number k draws.

    >>> p = np.array([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
    >>> verify(p, np.array([[1.0, 0.0, 0.0]]), [0], [0.4, 0.1])  # 0.4 < 0.5 / 1: accepted, and token 1 after it
    [0, 1]
    >>> verify(p, np.array([[1.0, 0.0, 0.0]]), [0], [0.6, 0.1])  # not accepted: the rest of p is all token 1's
    [1]
    """
    p, q = _normalised(p), _normalised(q)
    for i, token in enumerate(proposals):
        if not uniform[i] * q[i, token] < p[i, token]:
            rest = residual_distribution(p[i], q[i])
            break
    else:
        i, rest = len(proposals), p[-1]
    return proposals[:i] + multinomial(rest[None], np.asarray(uniform[len(proposals)])[None]).tolist()


def round_of(p, q, proposals: list[int], uniform, written: list[int]) -> Round:
    """A record of `verify`: its arguments, and what it returned."""
    p, q, places = _normalised(p[: len(proposals)]), _normalised(q), np.arange(len(proposals))
    shares = p[places, proposals].tolist(), q[places, proposals].tolist()
    return Round(proposals, *shares, np.asarray(uniform)[: len(proposals)].tolist(), written)


def residual_distribution(p, q):
    """The distribution after a rejection, not normalised: max(p - q, 0), (V,).

    If p and q differ only by rounding it may be 0 everywhere; then it is p.

    >>> residual_distribution(np.array([0.5, 0.25, 0.25]), np.array([0.75, 0.25, 0.0]))
    array([0.  , 0.  , 0.25])
    """
    rest = np.maximum(p - q, 0)
    return rest if rest.any() else p


def _normalised(p) -> np.ndarray:
    """In float64, with rows that sum to 1: sums of float32 probabilities are off by 1e-7."""
    p = np.asarray(p, np.float64)
    return p / p.sum(axis=-1, keepdims=True)


class DraftModel:
    """A draft model: it generates proposals, and drops the rejected ones from its cache."""

    def __init__(self, model, probabilities: Probabilities):
        self._decoder, self._probabilities = Decoder(model), probabilities
        self._seen, self._sure = [], 0  # the tokens in the cache, and how many of them are text
        self._most = model.config.context_length // 2  # rejected tokens are then still in the cache

    def propose(self, text: list[int], count: int, uniform, vocab_size: int) -> tuple[list[int], np.ndarray]:
        """At most `count` tokens after `text`, drawn with `uniform`, and their probabilities q
        (count, V).
        """
        count = min(count, self._most)
        if not count:
            return [], np.ones((0, vocab_size))
        common = self._sure
        while common < min(len(self._seen), len(text) - 1) and self._seen[common] == text[common]:
            common += 1
        self._decoder.truncate(len(self._seen) - common)
        proposals, q, unread = [], [], text[common:]
        for number in uniform[:count]:
            q.append(self._probabilities(self._decoder.read(np.array([unread])), [text + proposals]))
            unread = multinomial(q[-1], number[None]).tolist()
            proposals += unread
        self._seen, self._sure = text + proposals[:-1], len(text)  # the last one is proposed, not read
        return proposals, np.concatenate(q)


@dataclass(frozen=True)
class PromptLookup:
    """Proposes the tokens that followed the latest earlier occurrence of the text's last tokens.

    It searches for the last `ngram` tokens, then for fewer, down to `shortest`: what followed a
    single token is seldom right. The copy may extend into itself, so that a loop is continued.

    >>> PromptLookup().continuation([1, 2, 3, 4, 9, 2, 3], 3)
    [4, 9, 2]
    >>> PromptLookup().continuation([7, 8, 7, 8], 5)
    [7, 8, 7, 8, 7]
    """

    ngram: int = 3
    shortest: int = 2

    def __post_init__(self):
        for name, value in (("ngram", self.ngram), ("shortest", self.shortest)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} is {value}: it must be a whole number of at least 1")
        if self.shortest > self.ngram:
            raise UserError(f"shortest is {self.shortest}, more than ngram, {self.ngram}: it must be at most as long")

    def continuation(self, text: list[int], count: int) -> list[int]:
        """At most `count` ids; none if the last tokens did not occur before."""
        ids = np.array(text)
        for n in range(min(self.ngram, len(ids) - 1), self.shortest - 1, -1):
            earlier = np.lib.stride_tricks.sliding_window_view(ids[:-1], n)
            found = np.flatnonzero((earlier == ids[-n:]).all(axis=-1))
            if found.size:
                start, copied = int(found[-1]) + n, []
                for i in range(start, start + count):
                    copied.append(text[i] if i < len(text) else copied[i - len(text)])
                return copied
        return []

    def propose(self, text: list[int], count: int, uniform, vocab_size: int) -> tuple[list[int], np.ndarray]:
        """As DraftModel.propose, without random numbers."""
        proposals = self.continuation(text, count)
        q = np.zeros((len(proposals), vocab_size))
        q[np.arange(len(proposals)), proposals] = 1
        return proposals, q
