"""How the next token is chosen, as the page draws it: the tokens after each stage, and the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from minillm.errors import UserError
from minillm.sampler import History, Sampler
from minillm.sampler.probability import log_softmax, softmax
from minillm.sampler.settings import SamplerSettings

SHOWN = 20  # the likeliest tokens of the model and after all stages, each a row
NARROWEST = 0.002  # of [0, 1): shorter intervals are not drawn, but that of the token
MOST_SEEDS = 200  # that are tried to draw another token


def choice(
    logits, settings: SamplerSettings, prompt: Sequence[int], written: Sequence[int], mu: float | None = None
) -> dict:
    """What `Sampler.trace` does with logits (V,) after prompt and written, as JSON:

    trace     as `minillm generate --trace --json` has it.
    rows      ids: the likeliest tokens of the model and after all stages, the token drawn among
              them, by the model's probability.
    logp      of each row: the model's log-probability, as `--logprobs` has it.
    shares    for each stage, of each row: its probability, None where it is removed.
    segments  [id, first, past]: the intervals of [0, 1) of the rows, if they can be seen.
    mu        mirostat's after the draw, None without it.

    mu: mirostat's before the draw.
    """
    sampler, logits = Sampler(**vars(settings)), logits[None]
    sampler.reset(len(written), mu)
    history = History([[*prompt, *written]], [len(prompt)])
    stages: list[np.ndarray] = []

    def watch(name: str, left, ids) -> None:
        p = np.where(left > -np.inf, softmax(left), np.nan)  # (1, n)
        if ids is not None:  # the stage kept only these
            p, some = np.full(logits.shape, np.nan), p
            np.put_along_axis(p, ids, some, axis=1)
        stages.append(p[0])

    drawn_from = sampler.probabilities(logits, history)[0]
    (trace,) = sampler.trace(logits, history, watch)
    log_p = log_softmax(np.float32(logits))[0]
    rows = _rows(stages[0], drawn_from, trace.token)
    return {
        "trace": trace.as_json(),
        "rows": rows.tolist(),
        "logp": log_p[rows].tolist(),
        "shares": [[None if np.isnan(p) else p for p in stage[rows].tolist()] for stage in stages],
        "segments": _segments(drawn_from, rows, trace.token),
        "mu": None if sampler.mu is None else float(sampler.mu[0]),
    }


def another_choice(
    logits, settings: SamplerSettings, prompt, written, mu: float | None, unlike: Sequence[int]
) -> tuple[dict, int]:
    """As `choice`, with the next seed that draws none of `unlike`; returns that seed, too.

    Raises UserError where MOST_SEEDS draw nothing else.
    """
    sampler = Sampler(**vars(settings))
    history = History([[*prompt, *written]], [len(prompt)])
    for seed in range(settings.seed + 1, settings.seed + 1 + MOST_SEEDS):
        sampler = sampler.with_settings(seed=seed)
        sampler.reset(len(written), mu)
        if int(sampler.sample(logits[None], history)[0]) not in unlike:
            return choice(logits, replace(settings, seed=seed), prompt, written, mu), seed
    raise UserError(f"{MOST_SEEDS} other seeds draw the same here: choose another token by hand, or other settings")


def _rows(model, drawn_from, token: int) -> np.ndarray:
    """The ids of the rows: model (V,), drawn_from (V,) probabilities."""
    likely = _likeliest(model), _likeliest(drawn_from), [token]
    rows = np.unique(np.concatenate(likely))
    return rows[np.argsort(-model[rows], kind="stable")]


def _likeliest(p) -> np.ndarray:
    """The ids of the SHOWN largest probabilities above 0 of p (V,)."""
    p = np.nan_to_num(p)
    ids = np.argpartition(-p, SHOWN)[:SHOWN] if len(p) > SHOWN else np.arange(len(p))
    return ids[p[ids] > 0]


def _segments(p, rows, token: int) -> list[list]:
    """The intervals of the rows, as `cdf_interval` has them; rising."""
    ends = np.cumsum(p, dtype=np.float64)
    ids = np.sort(rows)
    first = np.where(ids > 0, ends[ids - 1], 0.0) / ends[-1]
    past = ends[ids] / ends[-1]
    return [
        [int(index), start, end]
        for index, start, end in zip(ids, first.tolist(), past.tolist())
        if end - start >= NARROWEST or (index == token and end > start)
    ]
