"""The ways in which a text can be written: by a sampler, by a search, or by a sampler with a draft."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np

from minillm.errors import UserError
from minillm.generation.beam_search import beam_search
from minillm.generation.contrastive_search import contrastive_search
from minillm.generation.decoder import left_padded
from minillm.generation.score import score_text
from minillm.generation.speculative import PromptLookup, speculative_generate
from minillm.generation.text import Completion, check_stop_strings, decode_texts, write
from minillm.sampler.sampler import Sampler
from minillm.sampler.stages import stages_of

SEARCH = "Search, and several tokens at a time"


def _option(default, help: str, **more):
    """A field that is an option of `minillm generate`, too; more: what else cli/options.py reads."""
    return field(default=default, metadata={"help": help, "panel": SEARCH, **more})


@dataclass(frozen=True)
class Strategy:
    """How to write: with the sampler, unless one of the others is asked for.

    beams above 1: beam search (beam.py), with length_penalty, early_stopping, and n_best texts. contrastive_alpha: contrastive
    search (contrastive.py) among the sampler's top_k tokens. draft: a smaller model or PromptLookup, which proposes
    `lookahead` tokens at a time (speculative.py), 4 or 10 if not given: looking up costs nothing, and on a CPU a pass over
    ten tokens takes hardly longer than one over five.

    A search looks at the model's own probabilities. Raises UserError for more than one of them, and for settings of the sampler
    that would not be looked at. A strategy remembers nothing: the same prompt is continued in the same way every time.
    """

    sampler: Sampler = field(default_factory=Sampler)
    beams: int = _option(1, "Beam search with so many beams.", min=1)
    length_penalty: float = _option(1.0, "Scores are divided by length to this power.", show_default=True)
    early_stopping: bool | str = _option(
        False,
        "End the search once there are --beams finished texts.",
        choices=("true", "false", "never"),
        show_default=True,
    )
    n_best: int = _option(1, "How many of the beams' texts are shown.", min=1)
    contrastive_alpha: float | None = _option(
        None, "Contrastive search: the weight of being unlike (with --top-k, 4 by default)."
    )
    draft: object | None = None
    lookahead: int | None = _option(None, "Tokens that are guessed at a time: 4 by a draft, 10 by look-up.", min=1)

    def __post_init__(self):
        if not isinstance(self.beams, Integral) or self.beams < 1:
            raise UserError(f"beams is {self.beams}: it must be a whole number of at least 1 (1 is no search)")
        chosen = [
            name
            for name, on in (
                ("beams", self.beams > 1),
                ("contrastive search", self.contrastive_alpha is not None),
                ("a draft", self.draft is not None),
            )
            if on
        ]
        if len(chosen) > 1:
            raise UserError(f"{' and '.join(chosen)} cannot go together: choose one")
        if self.n_best > 1 and self.beams == 1:
            raise UserError("n_best are texts of a beam search: ask for beams, or for several samples")
        if self.beams > 1 or self.contrastive_alpha is not None:
            self._refuse_settings_that_are_not_looked_at(chosen[0])

    def _refuse_settings_that_are_not_looked_at(self, search: str) -> None:
        allowed = ("temperature", "top_k") if self.contrastive_alpha is not None else ("temperature",)
        extra = [stage.name for stage in stages_of(self.sampler.settings) if stage.name not in allowed]
        if extra:
            raise UserError(f"{search} looks at the model's own probabilities: leave out {', '.join(extra)}")

    def write(
        self,
        model,
        tokenizer,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        samples: int = 1,
        end: Collection[int] = (),
        stop: Sequence[str] = (),
        max_time: float | None = None,
        trace: bool = False,
        logprobs: bool = False,
    ) -> Iterator[list[Completion]]:
        """Continue a prompt (ids): yields the writings after every token, and when all are over (writing.py).

        samples: that many texts at once; a search has only one, or its n_best. Raises UserError where a strategy cannot do
        what is asked for.
        """
        check_stop_strings(stop)
        ends = dict(end=end, stop=stop, max_time=max_time)
        if self.beams == 1 and self.contrastive_alpha is None and self.draft is None:
            prompts, sampler = [prompt] * samples, self.sampler.with_settings()
            return write(model, tokenizer, prompts, max_tokens, sampler, trace=trace, logprobs=logprobs, **ends)
        if samples > 1:
            raise UserError("several samples are drawn by a sampler: leave out beams, contrastive search and draft")
        if trace:
            raise UserError("a trace tells what a sampler did: leave out beams, contrastive search and draft")
        room = model.config.context_length - len(prompt) + 1
        if logprobs and max_tokens > room:
            raise UserError(
                f"the log-probabilities of a search are taken from the whole text at once: at most {max(room, 0)} tokens can "
                "be written after this prompt, or leave out logprobs"
            )
        if self.beams > 1:
            if max_time is not None:
                raise UserError("a beam search has no text before it is over: leave out max_time, or the beams")
            return self._searched(model, tokenizer, prompt, max_tokens, end, stop, logprobs)
        tokens, over = self._tokens(model, np.array([prompt]), max_tokens), np.zeros(1, bool)
        writings = decode_texts(tokens, tokenizer, [prompt], over, max_tokens, **ends)
        return self._completed(writings, tokens, model, prompt, logprobs)

    def _tokens(self, model, ids, max_tokens: int) -> Iterator[np.ndarray]:
        """Contrastive search and speculative decoding, whose tokens come one after the other."""
        if self.contrastive_alpha is not None:
            settings = dict(top_k=self.sampler.settings.top_k or 4, penalty_alpha=self.contrastive_alpha)
            return contrastive_search(model, ids, max_tokens, **settings)
        lookahead = self.lookahead or (10 if isinstance(self.draft, PromptLookup) else 4)
        settings = dict(draft=self.draft, lookahead=lookahead, sampler=self.sampler)
        return speculative_generate(model, ids, max_tokens, **settings)

    def _completed(self, writings, tokens, model, prompt, logprobs: bool) -> Iterator[list[Completion]]:
        """With what is known when the text is over: how well the draft guessed, what the model gave each token."""
        for (writing,) in writings:
            if writing.reason:
                writing.speculation = getattr(tokens, "statistics", None)
                if logprobs and not writing.logprobs:
                    writing.logprobs = score_text(model, prompt, writing.ids)[0].tolist()
            yield [writing]

    def _searched(self, model, tokenizer, prompt, max_tokens, end, stop, logprobs) -> Iterator[list[Completion]]:
        ids, _ = left_padded([list(prompt)])
        found = beam_search(
            model,
            ids,
            max_tokens,
            beams=self.beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            n_best=self.n_best,
            end=end or None,
        )[0]
        writings = []
        for hypothesis in found:
            over = np.zeros(1, bool)
            tokens = (np.array([token]) for token in hypothesis.ids)
            length = len(hypothesis.ids)
            *_, (writing,) = decode_texts(tokens, tokenizer, [prompt], over, length, end=end, stop=stop)
            writing.score = float(hypothesis.score)
            if logprobs:
                writing.logprobs = score_text(model, prompt, writing.ids)[0].tolist()
            writings.append(writing)
        yield writings
