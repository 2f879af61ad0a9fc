"""Strategies of generation: a sampler, a search, or a sampler with a draft model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np

from minillm.errors import UserError
from minillm.generation.decoder import left_padded
from minillm.generation.text import Completion, check_stop_strings, decode_texts, write
from minillm.sampler.sampler import Sampler
from minillm.sampler.stages import stages_of

SEARCH = "Search, and several tokens at a time"


def _option(default, help: str, **more):
    """A field that is an option of `minillm generate`, too; more: what else
    cli/options.py reads.
    """
    return field(default=default, metadata={"help": help, "panel": SEARCH, **more})


@dataclass(frozen=True)
class Strategy:
    """How a text is generated: by the sampler, unless one of the other ways is set.

    beams above 1: beam search (beam_search.py), with length_penalty, early_stopping and n_best.
    contrastive_alpha: contrastive search (contrastive_search.py) among the sampler's top_k tokens.
    draft: a smaller model or PromptLookup, which proposes `lookahead` tokens at a time
    (speculative.py); by default 4, or 10 for prompt look-up, which costs nothing: on a CPU a pass
    over ten tokens takes hardly longer than one over five.

    A search uses the model's own probabilities. Raises UserError for more than one of these ways,
    and for sampler settings that a search would ignore. A strategy has no state: it continues the
    same prompt in the same way every time.
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
            raise UserError("n_best needs a beam search: set beams, or draw several samples")
        if self.beams > 1 or self.contrastive_alpha is not None:
            self._refuse_unused_settings(chosen[0])

    def _refuse_unused_settings(self, search: str) -> None:
        allowed = ("temperature", "top_k") if self.contrastive_alpha is not None else ("temperature",)
        extra = [stage.name for stage in stages_of(self.sampler.settings) if stage.name not in allowed]
        if extra:
            raise UserError(f"{search} uses the model's own probabilities: leave out {', '.join(extra)}")

    def write(
        self,
        model,
        tokenizer,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        samples: int = 1,
        eos_ids: Collection[int] = (),
        stop: Sequence[str] = (),
        max_time: float | None = None,
        trace: bool = False,
        logprobs: bool = False,
    ) -> Iterator[list[Completion]]:
        """Continue a prompt (ids); yields the completions after every token and at the end
        (text.py).

        samples: how many texts; a search returns one, or its n_best. The other arguments are those
        of `minillm.generation.text.write`. Raises UserError if the strategy does not support them.
        """
        check_stop_strings(stop)
        ends = dict(eos_ids=eos_ids, stop=stop, max_time=max_time)
        if self.beams == 1 and self.contrastive_alpha is None and self.draft is None:
            prompts, sampler = [prompt] * samples, self.sampler.with_settings()
            return write(model, tokenizer, prompts, max_tokens, sampler, trace=trace, logprobs=logprobs, **ends)
        if samples > 1:
            raise UserError("several samples need a sampler: leave out beams, contrastive search and draft")
        if trace:
            raise UserError("a trace records a sampler: leave out beams, contrastive search and draft")
        room = model.config.context_length - len(prompt) + 1
        if logprobs and max_tokens > room:
            raise UserError(
                "the log-probabilities of a search are computed for the whole text in one pass: at most "
                f"{max(room, 0)} tokens can be written after this prompt, or leave out logprobs"
            )
        if self.beams > 1:
            if max_time is not None:
                raise UserError("a beam search has no text before it ends: leave out max_time, or the beams")
            return self._searched(model, tokenizer, prompt, max_tokens, eos_ids, stop, logprobs)
        tokens, over = self._tokens(model, np.array([prompt]), max_tokens), np.zeros(1, bool)
        completions = decode_texts(tokens, tokenizer, [prompt], over, max_tokens, **ends)
        return self._completed(completions, tokens, model, prompt, logprobs)

    def _tokens(self, model, ids, max_tokens: int) -> Iterator[np.ndarray]:
        """The tokens of contrastive search or speculative decoding, one by one."""
        from minillm.generation.contrastive_search import contrastive_search
        from minillm.generation.speculative import PromptLookup, speculative_generate

        if self.contrastive_alpha is not None:
            settings = dict(top_k=self.sampler.settings.top_k or 4, penalty_alpha=self.contrastive_alpha)
            return contrastive_search(model, ids, max_tokens, **settings)
        lookahead = self.lookahead or (10 if isinstance(self.draft, PromptLookup) else 4)
        settings = dict(draft=self.draft, lookahead=lookahead, sampler=self.sampler)
        return speculative_generate(model, ids, max_tokens, **settings)

    def _completed(self, completions, tokens, model, prompt, logprobs: bool) -> Iterator[list[Completion]]:
        """Add the fields that need the whole text: statistics of the draft, log-probabilities."""
        from minillm.generation.score import score_text

        for (completion,) in completions:
            if completion.reason:
                completion.speculation = getattr(tokens, "statistics", None)
                if logprobs and not completion.logprobs:
                    completion.logprobs = score_text(model, prompt, completion.ids)[0].tolist()
            yield [completion]

    def _searched(self, model, tokenizer, prompt, max_tokens, eos_ids, stop, logprobs) -> Iterator[list[Completion]]:
        from minillm.generation.beam_search import beam_search
        from minillm.generation.score import score_text

        ids, _ = left_padded([list(prompt)])
        found = beam_search(
            model,
            ids,
            max_tokens,
            beams=self.beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            n_best=self.n_best,
            eos_ids=eos_ids or None,
        )[0]
        completions = []
        for hypothesis in found:
            over = np.zeros(1, bool)
            tokens = (np.array([token]) for token in hypothesis.ids)
            length = len(hypothesis.ids)
            *_, (completion,) = decode_texts(tokens, tokenizer, [prompt], over, length, eos_ids=eos_ids, stop=stop)
            completion.score = float(hypothesis.score)
            if logprobs:
                completion.logprobs = score_text(model, prompt, completion.ids)[0].tolist()
            completions.append(completion)
        yield completions
