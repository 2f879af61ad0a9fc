"""Sampler settings and their validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from numbers import Integral, Real

from minillm.errors import UserError
from minillm.sampler.cuts import TIES


@dataclass(frozen=True)
class SamplerSettings:
    """Everything that decides which token is chosen. Every setting is off unless it is given.

    temperature: below 1 sharpens, above 1 flattens, 0 is greedy. seed: of the numbers that are
    drawn.

    Cuts (cuts.py): top_k, with ties "lowest" (exactly k) or "all" (of typical_p and the cutoffs,
    too); top_p; min_p; typical_p; epsilon_cutoff; eta_cutoff; top_n_sigma; xtc_probability, the
    chance with which XTC acts on a token, and xtc_threshold.

    Memory (penalties.py): repetition_penalty, on prompt and text; presence_penalty and
    frequency_penalty, on the text; no_repeat_ngram, a size; dry_multiplier, with dry_base,
    dry_allowed_length and dry_breakers, ids. penalty_window: how many of the last tokens they look
    at, None for all.

    Constraints (constraints.py): logit_bias, id -> what is added; banned_tokens; forced_tokens,
    position in the text (0 is the first token written) -> id; min_tokens, before which none of
    end_tokens is chosen.

    State (mirostat.py): mirostat_tau, the surprise in bits that is aimed at, and mirostat_eta, how
    fast.

    order: whose order and definitions of these are followed, one of ORDERS (stages.py).

    Numbers of any type become Python's own, and lists and mappings are copied: what was checked
    cannot change any more. Raises UserError, a ValueError, that names the setting and what it may
    be.
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breakers: tuple[int, ...] = ()
    penalty_window: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_tokens: tuple[int, ...] = ()
    forced_tokens: Mapping[int, int] = field(default_factory=dict)
    min_tokens: int = 0
    end_tokens: tuple[int, ...] = ()
    mirostat_tau: float | None = None
    mirostat_eta: float = 0.1
    ties: str | None = None
    order: str = "minillm"

    def __post_init__(self):
        self._check(
            "temperature", _is_number(self.temperature) and self.temperature >= 0, NOT_NEGATIVE + " (0 is greedy)"
        )
        self._check("seed", _is_whole(self.seed), "a whole number")
        for name in ("top_k", "penalty_window"):
            self._check(
                name, (value := getattr(self, name)) is None or _is_whole(value, 0), WHOLE + " (0 or None turns it off)"
            )
        for name in ("top_p", "typical_p"):
            self._check(
                name, (value := getattr(self, name)) is None or (_is_number(value) and 0 < value <= 1), SHARE_ABOVE_0
            )
        threshold = self.xtc_threshold
        self._check("xtc_threshold", _is_number(threshold) and 0 <= threshold <= 1, "a number from 0 to 1")
        for name in ("min_p", "epsilon_cutoff", "eta_cutoff", "xtc_probability"):
            self._check(name, (value := getattr(self, name)) is None or (_is_number(value) and 0 <= value <= 1), SHARE)
        for name in ("top_n_sigma", "dry_multiplier", "mirostat_tau"):
            okay = (value := getattr(self, name)) is None or (_is_number(value) and value >= 0)
            self._check(name, okay, NOT_NEGATIVE + " (0 or None turns it off)")
        for name in ("repetition_penalty", "mirostat_eta"):
            self._check(name, _is_number(value := getattr(self, name)) and value > 0, "a finite number above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            self._check(name, _is_number(getattr(self, name)), "a finite number (0 turns it off)")
        self._check("dry_base", _is_number(self.dry_base) and self.dry_base >= 1, "a finite number of at least 1")
        for name in ("no_repeat_ngram", "min_tokens"):
            self._check(name, _is_whole(getattr(self, name), 0), WHOLE + " (0 turns it off)")
        self._check("dry_allowed_length", _is_whole(self.dry_allowed_length, 1), "a whole number of at least 1")
        for name in ("banned_tokens", "dry_breakers", "end_tokens"):
            tokens = getattr(self, name)
            okay = isinstance(tokens, (list, tuple, range, Set)) and all(_is_whole(token, 0) for token in tokens)
            self._check(name, okay, "a list of ids of tokens")
        okay = isinstance(self.logit_bias, Mapping)
        okay = okay and all(_is_whole(i, 0) and _is_bias(b) for i, b in self.logit_bias.items())
        self._check("logit_bias", okay, BIAS)
        okay = isinstance(self.forced_tokens, Mapping)
        okay = okay and all(_is_whole(at, 0) and _is_whole(token, 0) for at, token in self.forced_tokens.items())
        self._check("forced_tokens", okay, "positions from 0 on, each with the id of a token")
        self._check("order", isinstance(self.order, str), "a name, one of ORDERS (stages.py)")
        self._check("ties", self.ties is None or self.ties in TIES, f"one of {', '.join(TIES)}")
        if self.min_tokens and not self.end_tokens:
            raise UserError("min_tokens needs end_tokens: the ids that end a text and are not to be chosen before")
        for setting in fields(self):
            object.__setattr__(self, setting.name, _plain(getattr(self, setting.name)))

    def named_tokens(self) -> list[tuple[str, int]]:
        """Every id that a setting names, with the setting."""
        groups = {name: getattr(self, name) for name in ("banned_tokens", "dry_breakers", "end_tokens", "logit_bias")}
        groups["forced_tokens"] = self.forced_tokens.values()
        return [(name, token) for name, tokens in groups.items() for token in tokens]

    def _check(self, name: str, okay: bool, allowed: str) -> None:
        if not okay:
            raise UserError(f"{name} is {getattr(self, name)}: it must be {allowed}")


NOT_NEGATIVE = "a finite number of at least 0"
WHOLE = "a whole number of at least 0"
SHARE = "a number from 0 (off) to 1"
SHARE_ABOVE_0 = "a number above 0 and at most 1 (1 or None turns it off)"
BIAS = "ids of tokens, each with a number that is added to its logit (-inf is a ban)"


def _is_number(value) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _is_bias(value) -> bool:
    return _is_number(value) or value == -math.inf


def _is_whole(value, least: int | None = None) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and (least is None or value >= least)


def _plain(value):
    """A setting in Python's own types.

    >>> _plain({3: 1}), _plain([1, 2])
    ({3: 1}, (1, 2))
    """
    if isinstance(value, Mapping):
        return {int(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, range, Set)):
        return tuple(int(entry) for entry in value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value
