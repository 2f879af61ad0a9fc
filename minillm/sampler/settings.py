"""Sampler settings and their validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import NamedTuple

from minillm.errors import UserError
from minillm.sampler.cuts import TIES

ORDER_NAMES = ("minillm", "hf", "vllm", "llama.cpp")  # stages.py has the order of each


class Rule(NamedTuple):
    """What a setting may be: a test of its value, and the same in words."""

    holds: Callable[[object], bool]
    words: str


def _is_number(value) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _is_bias(value) -> bool:
    return _is_number(value) or value == -math.inf


def _is_whole(value, least: int | None = None) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and (least is None or value >= least)


def _are_ids(value) -> bool:
    return isinstance(value, (list, tuple, range, Set)) and all(_is_whole(token, 0) for token in value)


def _number_rule(words: str, holds: Callable[[float], bool] = lambda value: True, none: bool = False) -> Rule:
    """A rule for finite numbers; none: None is allowed, too."""
    return Rule(lambda value: (none and value is None) or (_is_number(value) and holds(value)), words)


def _whole_rule(words: str, least: int | None, none: bool = False) -> Rule:
    return Rule(lambda value: (none and value is None) or _is_whole(value, least), words)


_NOT_NEGATIVE, _WHOLE = "a finite number of at least 0", "a whole number of at least 0"
GREEDY_OR_ABOVE = _number_rule(f"{_NOT_NEGATIVE} (0 is greedy)", lambda value: value >= 0)
ANY_WHOLE = _whole_rule("a whole number", None)
COUNT = _whole_rule(f"{_WHOLE} (0 turns it off)", 0)
COUNT_OR_NONE = _whole_rule(f"{_WHOLE} (0 or None turns it off)", 0, none=True)
LENGTH = _whole_rule("a whole number of at least 1", 1)
SHARE = _number_rule("a number from 0 (off) to 1", lambda value: 0 <= value <= 1, none=True)
SHARE_ABOVE_0 = _number_rule(
    "a number above 0 and at most 1 (1 or None turns it off)", lambda value: 0 < value <= 1, none=True
)
PROBABILITY = _number_rule("a number from 0 to 1", lambda value: 0 <= value <= 1)
STRENGTH = _number_rule(f"{_NOT_NEGATIVE} (0 or None turns it off)", lambda value: value >= 0, none=True)
ABOVE_0 = _number_rule("a finite number above 0", lambda value: value > 0)
AT_LEAST_1 = _number_rule("a finite number of at least 1", lambda value: value >= 1)
ANY_NUMBER = _number_rule("a finite number (0 turns it off)")
IDS = Rule(_are_ids, "a list of ids of tokens")
BIASES = Rule(
    lambda value: isinstance(value, Mapping) and all(_is_whole(i, 0) and _is_bias(b) for i, b in value.items()),
    "ids of tokens, each with a number that is added to its logit (-inf is a ban)",
)
POSITIONS = Rule(
    lambda value: isinstance(value, Mapping) and all(_is_whole(at, 0) and _is_whole(i, 0) for at, i in value.items()),
    "positions from 0 on, each with the id of a token",
)
NAME = Rule(lambda value: isinstance(value, str), "a name, one of ORDERS (stages.py)")
TIE = Rule(lambda value: value is None or value in TIES, f"one of {', '.join(TIES)}")

CUTS, MEMORY, WANTED = "Which tokens may be chosen", "Against repetition", "Tokens that are wanted or not (ids)"


def setting(default, rule: Rule, help: str | None = None, panel: str | None = None, **option):
    """A field of the settings with its rule. With a help text it is an option of the command line
    too.

    panel: under which heading its help appears. option: what else cli/options.py reads, such as
    another name.
    """
    metadata = {"rule": rule, **({"help": help, "panel": panel, **option} if help else {})}
    return (
        field(default_factory=dict, metadata=metadata) if default == {} else field(default=default, metadata=metadata)
    )


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
    dry_allowed_length and dry_breakers, ids. penalty_window: how many of the last tokens they read,
    None for all.

    Constraints (constraints.py): logit_bias, id -> what is added; banned_tokens; forced_tokens,
    position in the text (0 is the first token written) -> id; min_tokens, before which none of
    end_tokens is chosen.

    State (mirostat.py): mirostat_tau, the target surprise in bits, and mirostat_eta, the rate of
    its correction.

    order: whose order and definitions of these are followed, one of ORDERS (stages.py).

    Each field has its rule in its metadata. Numbers of any type become Python's own, and lists and
    mappings are copied, so that later changes to them have no effect. Raises UserError, a
    ValueError, that names the setting and what it may be.
    """

    temperature: float = setting(
        1.0, GREEDY_OR_ABOVE, "Below 1: surer. Above 1: wilder. 0: always the likeliest token.", show_default=True
    )
    top_k: int | None = setting(None, COUNT_OR_NONE, "The k likeliest tokens; 0: all.", CUTS)
    seed: int = setting(0, ANY_WHOLE, "The same seed writes the same text.", show_default=True)
    top_p: float | None = setting(
        None,
        SHARE_ABOVE_0,
        "The likeliest tokens, down to and including the one with which their sum of probabilities reaches p.",
        CUTS,
    )
    min_p: float | None = setting(None, SHARE, "Those at least this share as likely as the likeliest.", CUTS)
    typical_p: float | None = setting(
        None, SHARE_ABOVE_0, "Those of the most typical surprise, until their sum of probabilities reaches p.", CUTS
    )
    epsilon_cutoff: float | None = setting(None, SHARE, "Those of at least this probability.", CUTS)
    eta_cutoff: float | None = setting(None, SHARE, "The same, less strict where the model is unsure.", CUTS)
    top_n_sigma: float | None = setting(None, STRENGTH, "Logits at most so many deviations below the largest.", CUTS)
    xtc_probability: float = setting(
        0.0, SHARE, "How often all but the least likely of the tokens above --xtc-threshold are left out.", CUTS
    )
    xtc_threshold: float = setting(0.1, PROBABILITY, "See --xtc-probability.", CUTS, show_default=True)
    repetition_penalty: float = setting(1.0, ABOVE_0, "Above 1: tokens seen before are less likely.", MEMORY)
    presence_penalty: float = setting(0.0, ANY_NUMBER, "Lowers logits of tokens written before.", MEMORY)
    frequency_penalty: float = setting(0.0, ANY_NUMBER, "The same for each time they were written.", MEMORY)
    no_repeat_ngram: int = setting(0, COUNT, "No run of n tokens is written twice.", MEMORY)
    dry_multiplier: float = setting(0.0, STRENGTH, "DRY: punish tokens that prolong a repetition.", MEMORY)
    dry_base: float = setting(1.75, AT_LEAST_1, "How much more for each token.", MEMORY, show_default=True)
    dry_allowed_length: int = setting(2, LENGTH, "Repetitions up to this length are free.", MEMORY, show_default=True)
    dry_breakers: tuple[int, ...] = setting(
        (),
        IDS,
        'Texts over which no repetition reaches; by default newline : " *',
        MEMORY,
        type=list[str],  # texts, of which the tokenizer makes ids
    )
    penalty_window: int | None = setting(None, COUNT_OR_NONE, "Look at so many of the last tokens only.", MEMORY)
    logit_bias: Mapping[int, float] = setting({}, BIASES, "Add to a token's logit.", WANTED, metavar="ID:NUMBER")
    banned_tokens: tuple[int, ...] = setting((), IDS, "Never write this token.", WANTED, metavar="ID")
    forced_tokens: Mapping[int, int] = setting(
        {}, POSITIONS, "Write this token there; 0 is the first.", WANTED, metavar="POSITION:ID"
    )
    min_tokens: int = setting(0, COUNT, "No end of text before so many tokens.", WANTED)
    end_tokens: tuple[int, ...] = setting((), IDS)
    mirostat_tau: float | None = setting(
        None, STRENGTH, "Surprise in bits that the text is steered to (mirostat v2).", CUTS
    )
    mirostat_eta: float = setting(0.1, ABOVE_0, "How fast mirostat steers.", CUTS, show_default=True)
    ties: str | None = setting(None, TIE)
    order: str = setting(
        "minillm",
        NAME,
        "Whose order and definitions of all this are followed.",
        CUTS,
        choices=ORDER_NAMES,
        show_default=True,
    )

    def __post_init__(self):
        for each in fields(self):
            value, rule = getattr(self, each.name), each.metadata["rule"]
            if not rule.holds(value):
                raise UserError(f"{each.name} is {value}: it must be {rule.words}")
            object.__setattr__(self, each.name, _plain(value))
        if self.min_tokens and not self.end_tokens:
            raise UserError("min_tokens needs end_tokens: the ids that end a text and are not to be chosen before")

    def named_tokens(self) -> list[tuple[str, int]]:
        """Every id that a setting names, with the setting."""
        groups = {name: getattr(self, name) for name in ("banned_tokens", "dry_breakers", "end_tokens", "logit_bias")}
        groups["forced_tokens"] = self.forced_tokens.values()
        return [(name, token) for name, tokens in groups.items() for token in tokens]


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
