"""Beam search as a tree, and speculative decoding round by round: part of the view Write.

/write/beams        the candidates of each step, and the texts that were found, as a stream
/write/speculate    the guesses of each pass, and what the model wrote, as a stream
/write/drafts       which drafts can guess: look-up, the model itself, run folders of its vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from starlette.routing import Route

from minillm.errors import UserError
from minillm.files.atomic import read_json
from minillm.files.model_folder import CONFIG_FILE
from minillm.generation.beam_search import Candidate, Hypothesis, beam_search_steps
from minillm.generation.speculative import PromptLookup, Round, Speculation, speculative_generate
from minillm.generation.text import TextStream
from minillm.pretrained import from_pretrained
from minillm.sampler import Sampler
from minillm.web.play.answers import answer, stream
from minillm.web.play.arguments import number_or_none, text, whole
from minillm.web.play.places import folders_with
from minillm.web.play.studio import Studio
from minillm.web.play.write import piece, prompt_of, sampler_settings

MOST_BEAMS, MOST_TOKENS, MOST_GUESSES = 16, 200, 20
LOOKUP, ITSELF = "look-up", "the model itself"
LOOKAHEAD = {LOOKUP: 10}  # guesses at a time if none are given, as of `minillm generate`; else 4
NAME = 200  # characters of a run's name


def routes(studio: Studio) -> list[Route]:
    """The routes of this part."""
    return [
        answer("/write/drafts", studio, drafts),
        stream("/write/beams", studio, beams),
        stream("/write/speculate", studio, speculate),
    ]


def beams(studio: Studio, arguments: dict) -> Iterator[dict]:
    """The steps of a beam search, then its result.

    Arguments: prompt (ids); beams, tokens, length_penalty, early_stopping, as `minillm generate`
    has them (tokens: --max-tokens). Yields {candidates: [{parent, token, log_p, score, fate,
    piece}]} for each step (Candidate of beam_search.py) and {found: [{ids, score, text}]}, best
    first, at the end.
    """
    prompt = prompt_of(studio, arguments)
    count = whole(arguments, "beams", 2, MOST_BEAMS)
    penalty = number_or_none(arguments, "length_penalty")
    steps = beam_search_steps(
        studio.model,
        np.array([prompt]),
        whole(arguments, "tokens", 1, MOST_TOKENS),
        beams=count,
        n_best=count,
        length_penalty=1.0 if penalty is None else penalty,
        early_stopping=arguments.get("early_stopping", False),
        eos_ids=studio.end_tokens or None,
    )
    for step in steps:
        if step and isinstance(step[0], Candidate):
            tokens = [piece(studio.tokenizer, candidate.token) for candidate in step]
            yield {"candidates": [{**each._asdict(), "piece": shown} for each, shown in zip(step, tokens)]}
        else:
            yield {"found": [_found(studio, prompt, hypothesis) for hypothesis in step]}


def speculate(studio: Studio, arguments: dict) -> Iterator[dict]:
    """The passes of speculative decoding, then their sum.

    Arguments: prompt (ids); settings of the sampler; draft, one of `drafts`; tokens; lookahead,
    None for the draft's own. Yields {proposals, p, q, numbers, written, pieces, written_pieces} for
    each pass (Round of speculative.py), and at the end {ids, text, passes, proposed, accepted,
    written, accepted_share, tokens_per_pass}.
    """
    prompt = prompt_of(studio, arguments)
    name = text(arguments, "draft", NAME, "")
    lookahead = LOOKAHEAD.get(name, 4)
    if arguments.get("lookahead") is not None:
        lookahead = whole(arguments, "lookahead", 1, MOST_GUESSES)
    speculation = speculative_generate(
        studio.model,
        np.array([prompt]),
        whole(arguments, "tokens", 1, MOST_TOKENS),
        draft=_draft(studio, name),
        lookahead=lookahead,
        sampler=Sampler(**vars(sampler_settings(studio, arguments.get("settings", {})))),
        eos_ids=studio.end_tokens,
    )
    speculation.rounds, ids, shown = [], [], 0
    for token in speculation:
        ids.append(int(token[0]))
        if len(speculation.rounds) > shown:
            yield _pass(studio, speculation.rounds[shown])
            shown += 1
    yield _sum(studio, prompt, ids, speculation)


def drafts(studio: Studio, arguments: dict) -> list[str]:
    """The names of the drafts."""
    return [LOOKUP, ITSELF, *_runs(studio)]


def _draft(studio: Studio, name: str):
    if name == LOOKUP:
        return PromptLookup()
    if name == ITSELF:
        return studio.model
    folder = _runs(studio).get(name)
    if folder is None:
        raise UserError(f"{name!r} is no draft: choose one of {', '.join(drafts(studio, {}))}")
    return _opened(folder, (folder / CONFIG_FILE).stat().st_mtime_ns)


def _runs(studio: Studio) -> dict[str, Path]:
    """The finished run folders of the model's vocabulary, by name."""
    folders = {name: studio.runs / name for name in folders_with(studio.runs, CONFIG_FILE)}
    size = studio.model.config.vocab_size
    return {name: folder for name, folder in folders.items() if _vocabulary_of(folder) == size}


def _vocabulary_of(folder: Path) -> int | None:
    """How many tokens the model of a run folder knows; None where its file cannot be read."""
    try:
        return read_json(folder / CONFIG_FILE).get("vocab_size")
    except UserError:
        return None


@lru_cache(maxsize=1)
def _opened(folder: Path, changed: int):
    """The model of a run folder. changed: when, so that a new one is opened anew."""
    return from_pretrained(folder).eval()


def _found(studio: Studio, prompt: list[int], hypothesis: Hypothesis) -> dict:
    return {"ids": hypothesis.ids, "score": float(hypothesis.score), "text": _text(studio, prompt, hypothesis.ids)}


def _pass(studio: Studio, made: Round) -> dict:
    tokenizer = studio.tokenizer
    pieces = [piece(tokenizer, token) for token in made.proposals]
    return {
        **made._asdict(),
        "pieces": pieces,
        "written_pieces": [piece(tokenizer, token) for token in made.written],
    }


def _sum(studio: Studio, prompt: list[int], ids: list[int], speculation: Speculation) -> dict:
    counts = speculation.statistics
    shares = {"accepted_share": counts.accepted_share, "tokens_per_pass": counts.tokens_per_pass}
    return {"ids": ids, "text": _text(studio, prompt, ids), **vars(counts), **shares}


def _text(studio: Studio, prompt: list[int], ids: list[int]) -> str:
    """The text of ids after a prompt, without the token that ends it."""
    decoder = TextStream(studio.tokenizer, (), prompt)
    text = "".join(decoder.push(token) for token in ids if token not in studio.end_tokens)
    return text + decoder.finish()
