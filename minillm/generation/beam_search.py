"""Beam search: the likeliest texts, found by keeping the best few at every step.

Greedy choice takes the likeliest token, but the likeliest text may begin with another one. There
are V^n texts of n tokens, too many to try. A beam search keeps the `beams` likeliest beginnings. At
each step it continues every one of them with every token, and keeps the likeliest of the results:

    log p(x_1 ... x_t) = log p(x_1 ... x_{t-1}) + log p(x_t | x_1 ... x_{t-1})

A text that ends with an end-of-sequence token is finished and stored. Longer texts have smaller
probabilities, so finished texts are compared by

    score = log p(x_1 ... x_n) / n^length_penalty

with the end token counted in n. A length_penalty of 0 compares probabilities, 1 the mean
log-probability per token, and more favours long texts. With one beam it is greedy choice; with as
many beams as there are beginnings, and early_stopping="never", it finds the best text.

The definitions, and so ids and scores, are those of transformers' `generate(num_beams=...)`.
Sources: Graves, "Sequence Transduction with Recurrent Neural Networks" (2012); Wu et al., "Google's
Neural Machine Translation System" (2016), section 7, whose length penalty has another form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from minillm.backend.arrays import to_host
from minillm.errors import UserError
from minillm.generation.decoder import Decoder
from minillm.sampler.cuts import top_k_ids
from minillm.sampler.probability import log_softmax
from minillm.sampler.sampler import refuse_invalid

STRONGEST_PENALTY = 50  # of length, beyond which the scores of long texts are no numbers


class Hypothesis(NamedTuple):
    """A text that the search found: its new ids, the end token included, and its score."""

    ids: list[int]
    score: float


class Candidate(NamedTuple):
    """A continuation that a step of the search compared with others.

    parent: which of the beams before the step it continues. token: with what. log_p: of the whole
    text. score: as if it ended here. fate: "kept" as a beam, "finished", or "pruned".
    """

    parent: int
    token: int
    log_p: float
    score: float
    fate: str


def beam_search(
    model,
    ids,
    max_new_tokens: int,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    n_best: int = 1,
    eos_ids: int | Iterable[int] | None = None,
    padding=None,
) -> list[list[Hypothesis]]:
    """The best continuations of ids (B, T): for each row `n_best`, best first (fewer if no more
    exist).

    model: a LanguageModel. beams: how many beginnings are kept. length_penalty: of the score above.
    eos_ids: the id or ids that finish a text; at `max_new_tokens` it is finished in any case.
    padding (B,): see `left_padded`. early_stopping: when a row ends, once `beams` of its texts are
    finished. True: at once. False: when the best unfinished text has, at its present length, no
    better score than the worst finished one. "never": when no unfinished text can get a better
    score at any length, which is exact.

    When the context is full, its oldest quarter is dropped for all beams. Equal scores: the beam
    that was better before, then the lowest id. Raises UserError for invalid settings.
    """
    settings = dict(beams=beams, length_penalty=length_penalty, early_stopping=early_stopping, n_best=n_best)
    *_, searches = _steps(model, ids, max_new_tokens, eos_ids, padding, record=False, **settings)
    return [search.finished[:n_best] for search in searches]


def beam_search_steps(
    model,
    ids,
    max_new_tokens: int,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    n_best: int = 1,
    eos_ids: int | Iterable[int] | None = None,
) -> Iterator[list[Candidate] | list[Hypothesis]]:
    """A search for one text, ids (1, T), step by step: yields the candidates of each step, best
    first, and at the end what `beam_search` returns for the row.

    The kept candidates of a step are the beams of the next one, in this order. The arguments and
    errors are those of `beam_search`.
    """
    if np.ndim(ids) != 2 or len(ids) != 1:
        raise UserError(f"the prompt has shape {np.shape(ids)}: a search is followed for one text, as (1, T)")
    settings = dict(beams=beams, length_penalty=length_penalty, early_stopping=early_stopping, n_best=n_best)
    for (search,) in _steps(model, ids, max_new_tokens, eos_ids, None, record=True, **settings):
        yield search.candidates
    yield search.finished[:n_best]


def _steps(
    model, ids, max_new_tokens, eos_ids, padding, *, record, beams, length_penalty, early_stopping, n_best
) -> Iterator[list[_Search]]:
    """The searches of all rows, after each step."""
    ids = np.asarray(ids)
    eos_ids = frozenset([eos_ids] if isinstance(eos_ids, Integral) else eos_ids or ())
    _check(ids, max_new_tokens, beams, length_penalty, early_stopping, n_best)
    decoder = Decoder(model)
    searches = [_Search(beams, length_penalty, early_stopping, max_new_tokens, eos_ids, record) for _ in ids]
    growing, logits = searches, decoder.read(ids, padding)
    while True:
        logits = to_host(logits)
        refuse_invalid(logits)
        log_p, parents, first = log_softmax(logits), [], 0
        for search in growing:
            count = len(search.texts)
            parents += [first + parent for parent in search.step(log_p[first : first + count])]
            first += count
        yield searches
        growing = [search for search in growing if search.texts]
        if not growing:
            return
        decoder.reorder(parents)
        logits = decoder.read(np.array([[text[-1]] for search in growing for text in search.texts]))


class _Search:
    """The search in one row of the batch: unfinished texts, likeliest first, and the best finished
    ones. candidates: those of the last step, if they are recorded.
    """

    def __init__(self, beams, length_penalty, early_stopping, max_new_tokens, eos_ids, record: bool):
        self.record, self.candidates = record, []
        self.beams, self.length_penalty, self.early_stopping = beams, length_penalty, early_stopping
        self.longest, self.eos_ids = max_new_tokens, eos_ids
        self.texts, self.log_p = [[]], np.zeros(1)
        self.finished: list[Hypothesis] = []

    def step(self, log_p) -> list[int]:
        """log_p (beams, V): of each text's next token.

        Returns the parent of each new text; none at the end.

        Among the likeliest 2 `beams` continuations (more with several end tokens) there are always
        `beams` that do not end. Those that end are finished only if they are among the likeliest
        `beams`.
        """
        length, vocabulary = len(self.texts[0]) + 1, log_p.shape[1]
        totals = (self.log_p[:, None] + log_p).reshape(-1)
        texts, kept, parents, finished, candidates = [], [], [], [], []
        for rank, place in enumerate(_best_first(totals, self.beams * max(2, 1 + len(self.eos_ids)))):
            parent, token = divmod(int(place), vocabulary)
            text, fate = self.texts[parent] + [token], "pruned"
            if length == self.longest or token in self.eos_ids:
                if rank < self.beams:
                    finished.append(Hypothesis(text, float(totals[place]) / length**self.length_penalty))
                    fate = "finished"
            elif len(texts) < self.beams:
                texts.append(text)
                kept.append(totals[place])
                parents.append(parent)
                fate = "kept"
            if self.record:
                total = float(totals[place])
                candidates.append(Candidate(parent, token, total, total / length**self.length_penalty, fate))
        self.candidates = candidates
        best_first = sorted(self.finished + finished, key=lambda hypothesis: -hypothesis.score)
        self.finished, self.texts, self.log_p = best_first[: self.beams], texts, np.array(kept)
        if self._is_done(length):
            self.texts, parents = [], []
        return parents

    def _is_done(self, length: int) -> bool:
        if not self.texts or len(self.finished) < self.beams:
            return not self.texts
        if self.early_stopping is True:
            return True
        # log p can only fall; the best possible score is at the longest n, or the shortest for
        # penalties < 0
        at = self.longest if self.early_stopping == "never" and self.length_penalty > 0 else length
        return self.log_p[0] / at**self.length_penalty <= self.finished[-1].score


def _best_first(totals, count: int) -> np.ndarray:
    """The places of the `count` largest totals (N,), largest first, ties to the lowest place,
    without -inf.
    """
    places = top_k_ids(totals[None], min(count, len(totals)))[0]
    places = places[np.argsort(-totals[places], kind="stable")]
    return places[totals[places] > -np.inf]


def _check(ids, max_new_tokens, beams, length_penalty, early_stopping, n_best) -> None:
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise UserError(f"the prompt has shape {ids.shape}: at least one token is needed, as (B, T), to continue from")
    for name, value in (("max_new_tokens", max_new_tokens), ("beams", beams), ("n_best", n_best)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} is {value}: it must be a whole number of at least 1")
    if n_best > beams:
        raise UserError(f"n_best is {n_best}, more than the {beams} beams: use at least as many beams as results")
    if not isinstance(length_penalty, Real) or not abs(length_penalty) <= STRONGEST_PENALTY:
        raise UserError(
            f"length_penalty is {length_penalty}: it must be a number from -{STRONGEST_PENALTY} to {STRONGEST_PENALTY} "
            "(0 compares plain probabilities)"
        )
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise UserError(f'early_stopping is {early_stopping}: use True, False or "never"')
