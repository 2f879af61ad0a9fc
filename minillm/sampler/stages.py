"""The stages of a sampler, their order, and the definitions of four libraries.

The order matters: a temperature before top-p changes how many tokens top-p keeps; after it, it does
not. One order is this project's; the others reproduce three libraries:

    minillm     bias and bans, penalties, temperature, cuts
    hf          transformers, `GenerationMixin._get_logits_processor`: cuts after the temperature;
                ties are all kept by top-k, by typical, and by epsilon and eta if no token reaches
                the threshold
    vllm        vLLM, `vllm/v1/sample/sampler.py`: min-p before top-k and top-p; top-k keeps ties
    llama.cpp   llama.cpp, the default chain of `common/sampling.cpp`: cuts first, temperature last;
                penalties apply to the last 64 tokens unless penalty_window is set, the prompt's
                included, but DRY to all of them; typical keeps more than p instead of at least p;
                mirostat replaces everything but bias and temperature

Where a library's result depends on its sorting order (for example which of several equal tokens
top-p drops), the lowest ids are kept here. A setting that a library does not have is refused. At
temperature 0 the largest logit is taken after the penalties, as in all three libraries: no cut can
change it except XTC, which is skipped. (vLLM also treats a temperature below 1e-5 as 0; here it is
used as given.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minillm.errors import UserError
from minillm.sampler import constraints, cuts, penalties
from minillm.sampler.history import History
from minillm.sampler.mirostat import mirostat_cut
from minillm.sampler.settings import SamplerSettings


class Context(NamedTuple):
    """The inputs of a stage besides the logits.

    history: the tokens so far. coins: returns a random number in [0, 1) for each row. mu:
    mirostat's, (B,).
    """

    history: History
    coins: Callable[[], np.ndarray]
    mu: np.ndarray | None


class Stage(NamedTuple):
    """One transformation of the logits.

    is_cut: it only removes tokens, and depends only on those that are left. keeps: it keeps exactly
    this many tokens, the largest. needs_history: it needs the tokens so far.
    """

    name: str
    apply: Callable[[np.ndarray, Context], np.ndarray]
    is_cut: bool = False
    keeps: int | None = None
    needs_history: bool = False


LLAMA_CPP_WINDOW = 64  # the default window of llama.cpp's penalties, in tokens
# the range of temperatures in float32
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

ORDERS = {
    "minillm": (
        *("logit_bias", "banned_tokens", "min_tokens", "forced_tokens"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram", "dry_multiplier"),
        "temperature",
        *("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma", "xtc_probability"),
        "mirostat_tau",
    ),
    "hf": (
        *("logit_bias", "repetition_penalty", "no_repeat_ngram", "banned_tokens", "min_tokens"),
        "temperature",
        *("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    ),
    "vllm": (
        *("banned_tokens", "min_tokens", "logit_bias"),
        *("repetition_penalty", "frequency_penalty", "presence_penalty"),
        *("temperature", "min_p", "top_k", "top_p"),
    ),
    "llama.cpp": (
        *(
            "logit_bias",
            "banned_tokens",
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
            "dry_multiplier",
        ),
        *("top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc_probability"),
        *("temperature", "mirostat_tau"),
    ),
}


def stages_of(settings: SamplerSettings) -> list[Stage]:
    """The active stages, in order.

    Raises UserError for an unknown order, or a setting that the order lacks.
    """
    if settings.order not in ORDERS:
        raise UserError(f'order is "{settings.order}": use one of {", ".join(ORDERS)}')
    order = ORDERS[settings.order]
    on = {stage.name: stage for stage in _all_stages(settings) if stage is not None}
    for name in on:
        if name not in order:
            raise UserError(f'{name} does not exist in {settings.order}: leave it out, or use order="minillm"')
    if settings.order == "llama.cpp" and "mirostat_tau" in on:
        extra = set(on) - {"mirostat_tau", "temperature", "logit_bias", "banned_tokens"}
        if extra:
            raise UserError(f"llama.cpp runs mirostat alone: leave out {', '.join(sorted(extra))}")
    return [on[name] for name in order if name in on]


def _all_stages(settings: SamplerSettings) -> list[Stage | None]:
    """Every stage, None for inactive ones."""
    return [*_constraints(settings), *_penalties(settings), _temperature(settings), *_cuts(settings)]


def _stage(name: str, wanted, apply, **kind) -> Stage | None:
    return Stage(name, apply, **kind) if wanted else None


def _constraints(s: SamplerSettings) -> list[Stage | None]:
    def counts(context: Context) -> list[int]:
        return [context.history.written_count(row) for row in range(len(context.history.ids))]

    def forced(x, c):
        return constraints.force(x, [s.forced_tokens.get(count) for count in counts(c)])

    def long_enough(x, c):
        return constraints.forbid_end(x, s.end_tokens, [count < s.min_tokens for count in counts(c)])

    return [
        _stage("logit_bias", s.logit_bias, lambda x, c: constraints.logit_bias(x, s.logit_bias)),
        _stage("banned_tokens", s.banned_tokens, lambda x, c: constraints.ban(x, s.banned_tokens)),
        _stage("min_tokens", s.min_tokens, long_enough, needs_history=True),
        _stage("forced_tokens", s.forced_tokens, forced, needs_history=True),
    ]


def _penalties(s: SamplerSettings) -> list[Stage | None]:
    window = s.penalty_window or None
    if s.order == "llama.cpp" and s.penalty_window is None:
        window = LLAMA_CPP_WINDOW

    def seen(context: Context, window=window) -> list:
        return [_last(ids, window) for ids in context.history.ids]

    def written(context: Context) -> list:
        if s.order == "llama.cpp":  # its window does not separate prompt and text
            return seen(context)
        return [_last(context.history.written(row), window) for row in range(len(context.history.ids))]

    def repetition(x, c):
        return penalties.repetition_penalty(x, seen(c), s.repetition_penalty)

    def presence(x, c):
        return penalties.presence_penalty(x, written(c), s.presence_penalty)

    def frequency(x, c):
        return penalties.frequency_penalty(x, written(c), s.frequency_penalty)

    def no_repeat(x, c):
        return penalties.no_repeat_ngram(x, seen(c), s.no_repeat_ngram)

    def dry(x, c):
        text = seen(c, s.penalty_window or None)
        return penalties.dry_penalty(x, text, s.dry_multiplier, s.dry_base, s.dry_allowed_length, s.dry_breakers)

    return [
        _stage("repetition_penalty", s.repetition_penalty != 1, repetition, needs_history=True),
        _stage("presence_penalty", s.presence_penalty, presence, needs_history=True),
        _stage("frequency_penalty", s.frequency_penalty, frequency, needs_history=True),
        _stage("no_repeat_ngram", s.no_repeat_ngram, no_repeat, needs_history=True),
        _stage("dry_multiplier", s.dry_multiplier, dry, needs_history=True),
    ]


def _temperature(s: SamplerSettings) -> Stage | None:
    return _stage("temperature", s.temperature not in (0, 1), lambda x, c: apply_temperature(x, s.temperature))


def _cuts(s: SamplerSettings) -> list[Stage | None]:
    ties = s.ties or ("all" if s.order in ("hf", "vllm") else "lowest")
    more = s.order == "llama.cpp"  # typical keeps more than p, not p or more
    exactly = s.top_k if ties == "lowest" else None

    def cut(name, apply, wanted=None, keeps=None):
        wanted = getattr(s, name) if wanted is None else wanted
        return _stage(name, wanted, apply, is_cut=True, keeps=keeps)

    def below_1(p):
        return p is not None and p < 1

    return [
        cut("top_k", lambda x, c: cuts.top_k_cut(x, s.top_k, ties), keeps=exactly),
        cut("top_p", lambda x, c: cuts.top_p_cut(x, s.top_p), below_1(s.top_p)),
        cut("min_p", lambda x, c: cuts.min_p_cut(x, s.min_p)),
        cut("typical_p", lambda x, c: cuts.typical_cut(x, s.typical_p, ties, more), below_1(s.typical_p)),
        cut("epsilon_cutoff", lambda x, c: cuts.epsilon_cut(x, s.epsilon_cutoff, ties)),
        cut("eta_cutoff", lambda x, c: cuts.eta_cut(x, s.eta_cutoff, ties)),
        cut("top_n_sigma", lambda x, c: cuts.top_n_sigma_cut(x, s.top_n_sigma)),
        cut("xtc_probability", lambda x, c: cuts.xtc_cut(x, s.xtc_threshold, c.coins() < s.xtc_probability)),
        cut("mirostat_tau", lambda x, c: mirostat_cut(x, c.mu)),
    ]


def apply_temperature(logits, temperature: float):
    """(l - max(l)) / T of each row.

    The difference comes first: a tiny T gives -inf and never inf - inf.

    T below 1 sharpens the probabilities, above 1 flattens them: p_i ~ exp(l_i / T), the Boltzmann
    distribution. Source: Ackley, Hinton, Sejnowski, "A Learning Algorithm for Boltzmann Machines"
    (1985), equation 5.

    >>> apply_temperature(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 0.5)
    array([[-4.,  0., -2., -2.]], dtype=float32)
    >>> apply_temperature(np.array([[1e4, -1e4]], np.float32), 1e-300)
    array([[  0., -inf]], dtype=float32)
    """
    with np.errstate(over="ignore"):
        scaled = logits - logits.max(axis=-1, keepdims=True)
        scaled /= np.float32(min(max(temperature, SMALLEST), LARGEST))
    return scaled


def _last(ids, window: int | None):
    return ids if window is None else ids[max(len(ids) - window, 0) :]
