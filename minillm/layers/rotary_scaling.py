"""Scaling of rotary embedding: other angles than those of training, so that a model reads longer
texts than it was trained on.

rotary.py rotates pair i of a head, at position t, by the angle t theta_i, with theta_i = b^(-2i/D)
on the base b. In the P positions of the original context, pair i makes n_i = P theta_i / (2 pi)
turns. The first pairs make many turns: all their angles were seen in training. The last ones make
less than one, and positions beyond P bring angles that were never seen. A scaling rotates by
t theta_i' in their place, and may multiply what it rotates by an amplitude a:

    y_t = a R(t theta') x_t        a score q k / sqrt(D) is then multiplied by a^2

With the factor s, the length of the text over P, the kinds are

    linear        theta_i' = theta_i / s
    dynamic       theta_i' = theta_i (s T/P - s + 1)^(-2i / (D - 2)),  T = max(P, length of the text)
    yarn          theta_i' = (1 - r_i) theta_i + r_i theta_i / s           a = 0.1 ln s + 1
    llama3        theta_i' = (1 - m_i) theta_i / s + m_i theta_i
    longrope      theta_i' = theta_i / short_i up to P tokens, theta_i / long_i beyond
                                                                           a = sqrt(1 + ln s / ln P)
    proportional  theta_i' = theta_i / s for the first pairs, 0 for the others
    table         theta_i' = theta_i / factor_i

linear: Chen et al., "Extending Context Window of Large Language Models via Positional
Interpolation" (2023), equation 4: every position counts for 1/s of one. Neighbours come closer,
too.

dynamic: bloc97 and emozilla (2023), described in Peng et al. (2023), section 3.3: the base becomes
b (s T/P - s + 1)^(D / (D - 2)). The first pair keeps its angle, the last one is divided by
s T/P - s + 1. The angles of all positions depend on the length T of the whole text.

yarn: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023),
section 3.2. Pairs of many turns keep theta_i, those of few get theta_i / s. The ramp r_i rises from
0 at the pair that makes beta_fast turns to 1 at the one that makes beta_slow. The paper's ramp is
linear in n_i; the authors' program, and every model made with it, has one that is linear in i:

    i(n) = D ln(P / (2 pi n)) / (2 ln b)        the pair that makes n turns, as a real number
    r_i = (i - i(beta_fast)) / (i(beta_slow) - i(beta_fast)), cut to [0, 1]

with i(beta_fast) rounded down and i(beta_slow) rounded up if `truncate`. a is equation 22's root of
1/t: longer texts spread attention over more tokens, and larger scores make up for it.

llama3: Llama team, "The Llama 3 Herd of Models" (2024), section 3.4.2; the formula is in Meta's
reference code. The mixture is linear in the turns, m_i = (n_i - low) / (high - low), cut to [0, 1].

longrope: Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens" (2024): a
search found the factors of each pair, one list for short and one for long texts. s is the largest
context over P, whatever the length of the text.

proportional: of Gemma 4, as in the library transformers: the pairs that turn slowest do not turn.

table: llama.cpp's tensor rope_freqs, which may hold any of the constant kinds.

Backward. The tables of cos and sin hold a cos and a sin, so rotary_backward multiplies by a once
more, as a R is linear: dx = a R^T dy. A scaling has no parameters.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields

import numpy as np

from minillm.errors import UserError
from minillm.layers.rotary_checks import ORIGINAL, check_count, check_number, check_original, checked_factors

FORMER = {  # fields without a rope_type, as older run folders have them -> the kind
    frozenset({"factor"}): "linear",
    frozenset({"factors"}): "table",
    frozenset({"factor", "low_freq_factor", "high_freq_factor", ORIGINAL}): "llama3",
}


def _named(rope_type: str):
    """The field that names a kind, so that its fields alone say all of it."""
    return field(default=rope_type, init=False, repr=False)


class RotaryScaling:
    """A kind of scaling. The fields of each are those that Hugging Face's config.json has for it;
    original_max_position_embeddings is P. Raises UserError, naming the field, for impossible ones.

    rope_type: its name. amplitude: a. depends_on_length: whether the angles depend on the length of
    the text.
    """

    rope_type: str
    amplitude = 1.0
    depends_on_length = False

    @property
    def title(self) -> str:
        """The kind, the factor and the original context, as far as it has them."""
        factor = f" by {self.factor:g}" if hasattr(self, "factor") else ""
        return self.rope_type + factor + (f", from {getattr(self, ORIGINAL)} tokens" if hasattr(self, ORIGINAL) else "")

    def stretched(self, theta, base: float, T: int):
        """The angles theta_i' for a text of T tokens, from theta_i, those of the base: both are
        arrays with an entry for each pair of a head.
        """
        raise NotImplementedError

    def stage(self, T: int):
        """Texts whose lengths are of the same stage have the same angles."""
        return 0

    def check_head(self, D: int, base: float) -> None:
        """Raises UserError where a head of width D, or the base, cannot be scaled so."""


@dataclass(frozen=True)
class LinearScaling(RotaryScaling):
    factor: float
    rope_type: str = _named("linear")

    def __post_init__(self):
        check_number("factor", self.factor, 1)

    def stretched(self, theta, base, T):
        return theta / self.factor


@dataclass(frozen=True)
class DynamicScaling(RotaryScaling):
    factor: float
    original_max_position_embeddings: int
    rope_type: str = _named("dynamic")
    depends_on_length = True

    def __post_init__(self):
        check_number("factor", self.factor, 1)
        check_original(self)

    def stretched(self, theta, base, T):
        i, D = np.arange(len(theta)), 2 * len(theta)
        return theta * self._growth(T) ** (-2 * i / (D - 2))

    def stage(self, T):
        return max(T, self.original_max_position_embeddings)

    def check_head(self, D, base):
        if D < 4:
            raise UserError(f"rope_scaling: dynamic needs heads of at least 4 channels, and they have {D}")

    def _growth(self, T: int) -> float:
        return self.factor * self.stage(T) / self.original_max_position_embeddings - self.factor + 1


@dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """attention_factor: a, if not that of the paper."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    rope_type: str = _named("yarn")

    def __post_init__(self):
        check_number("factor", self.factor, 1)
        check_original(self)
        for name in ("beta_fast", "beta_slow"):
            check_number(name, getattr(self, name))
        if self.beta_fast <= self.beta_slow:
            raise UserError(
                f"rope_scaling: beta_fast ({self.beta_fast}) must be above beta_slow ({self.beta_slow}): usual are 32 and 1"
            )
        if self.attention_factor is not None:
            check_number("attention_factor", self.attention_factor)
        if not isinstance(self.truncate, bool):
            raise UserError(f"rope_scaling: truncate is {self.truncate!r:.99}, expected true or false")

    @property
    def amplitude(self) -> float:
        return yarn_amplitude(self.factor) if self.attention_factor is None else self.attention_factor

    def stretched(self, theta, base, T):
        D = 2 * len(theta)
        first, last = self._pair_with_turns(self.beta_fast, D, base), self._pair_with_turns(self.beta_slow, D, base)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, D - 1)
        if first == last:
            last += 0.001  # as every implementation does: a step in place of a division by 0
        r = np.clip((np.arange(len(theta)) - first) / (last - first), 0, 1)
        return (1 - r) * theta + r * theta / self.factor

    def check_head(self, D, base):
        if base <= 1:
            raise UserError(f"rope_scaling: yarn needs a rope_theta above 1, and it is {base}")

    def _pair_with_turns(self, turns: float, D: int, base: float) -> float:
        return D * math.log(self.original_max_position_embeddings / (2 * math.pi * turns)) / (2 * math.log(base))


@dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    rope_type: str = _named("llama3")

    def __post_init__(self):
        check_number("factor", self.factor, 1)
        for name in ("low_freq_factor", "high_freq_factor"):
            check_number(name, getattr(self, name))
        check_original(self)
        if self.high_freq_factor <= self.low_freq_factor:
            raise UserError(
                f"rope_scaling: high_freq_factor ({self.high_freq_factor}) must be above low_freq_factor "
                f"({self.low_freq_factor}): usual are 4 and 1"
            )

    def stretched(self, theta, base, T):
        turns = self.original_max_position_embeddings * theta / (2 * np.pi)
        m = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return (1 - m) * theta / self.factor + m * theta


@dataclass(frozen=True)
class LongRopeScaling(RotaryScaling):
    """factor: s; attention_factor: a, if not that of the paper."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float = 1.0
    attention_factor: float | None = None
    rope_type: str = _named("longrope")
    depends_on_length = True

    def __post_init__(self):
        for name in ("short_factor", "long_factor"):
            object.__setattr__(self, name, checked_factors(name, getattr(self, name)))
        check_number("factor", self.factor, 1)
        check_original(self)
        if self.attention_factor is not None:
            check_number("attention_factor", self.attention_factor)
        elif self.factor > 1 and self.original_max_position_embeddings == 1:
            raise UserError(
                f"rope_scaling: {ORIGINAL} is 1, and the attention_factor of longrope divides by its logarithm"
            )

    @property
    def amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor == 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_position_embeddings))

    def stretched(self, theta, base, T):
        return theta / np.array(self.long_factor if self.stage(T) else self.short_factor)

    def stage(self, T):
        return T > self.original_max_position_embeddings

    def check_head(self, D, base):
        check_count("short_factor", self.short_factor, D)
        check_count("long_factor", self.long_factor, D)


@dataclass(frozen=True)
class ProportionalScaling(RotaryScaling):
    """partial_rotary_factor: the share of the pairs that turn."""

    partial_rotary_factor: float = 1.0
    factor: float = 1.0
    rope_type: str = _named("proportional")

    def __post_init__(self):
        check_number("factor", self.factor, 1)
        check_number("partial_rotary_factor", self.partial_rotary_factor, 0, 1)

    def stretched(self, theta, base, T):
        return np.where(np.arange(len(theta)) < self.turning(len(theta)), theta / self.factor, 0)

    def turning(self, pairs: int) -> int:
        """How many of the pairs of a head turn."""
        return int(self.partial_rotary_factor * 2 * pairs // 2)


@dataclass(frozen=True)
class TableScaling(RotaryScaling):
    """factors: of each pair; attention_factor: a."""

    factors: tuple[float, ...]
    attention_factor: float = 1.0
    rope_type: str = _named("table")

    def __post_init__(self):
        object.__setattr__(self, "factors", checked_factors("factors", self.factors))
        check_number("attention_factor", self.attention_factor)

    @property
    def amplitude(self) -> float:
        return self.attention_factor

    def stretched(self, theta, base, T):
        return theta / np.array(self.factors)

    def check_head(self, D, base):
        check_count("factors", self.factors, D)


_KINDS = (LinearScaling, DynamicScaling, YarnScaling, Llama3Scaling, LongRopeScaling, ProportionalScaling, TableScaling)
KINDS = {kind.rope_type: kind for kind in _KINDS}


def yarn_amplitude(factor: float, multiplier: float = 1.0) -> float:
    """0.1 multiplier ln s + 1: a of YaRN for the factor s."""
    return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0


def scaling_from_fields(given: dict) -> RotaryScaling:
    """The scaling that has these fields, `rope_type` among them. Raises UserError for values that
    cannot be, a field too many, or one that is missing.
    """
    given = dict(given)
    name = given.pop("rope_type", FORMER.get(frozenset(given)))
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(f"rope_scaling: rope_type is {name!r:.99}: minillm computes {', '.join(KINDS)}")
    own = [each for each in fields(KINDS[name]) if each.init]
    if missing := [each.name for each in own if each.default is MISSING and each.name not in given]:
        raise UserError(f"rope_scaling: {missing[0]} is missing, which {name} needs")
    if unknown := sorted(map(str, given.keys() - {each.name for each in own})):
        raise UserError(f"rope_scaling has {unknown[0]}, which {name} does not know")
    return KINDS[name](**given)
