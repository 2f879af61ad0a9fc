"""Rotary angles in GGUF files, as llama.cpp reads and writes them.

    rope.scaling.type                      none, linear (also if left out), yarn, longrope
    rope.scaling.factor, rope.scale_linear (older)             s, of every type but none
    rope.scaling.original_context_length                       P of yarn and longrope
    rope.scaling.attn_factor                                   multiplies the amplitude a
    rope.scaling.yarn_attn_factor, yarn_beta_fast, yarn_beta_slow, yarn_ext_factor
    rope_freqs.weight                                          a factor for each pair; Llama 3's are one such table
    rope_factors_short.weight, rope_factors_long.weight        longrope, with or without its type (Phi-3)

Source: llama.cpp, src/llama-context.cpp and src/llama-model.cpp; ggml's rope; its converter of
config.json. yarn_attn_factor is the attention_factor of config.json, that is, a itself.

Two things llama.cpp does otherwise. It chooses the list of longrope by the context that it was
started with, where minillm and the library transformers go by the length of the text. And it reads
yarn_attn_factor, yarn_beta_fast and yarn_beta_slow in some architectures only, and rope_freqs in
others, so that `rope_to_gguf` writes a scaling as each of them reads it.
"""

from __future__ import annotations

import sys

import numpy as np

from minillm.errors import UserError
from minillm.layers.rotary_scaling import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    RotaryScaling,
    TableScaling,
    YarnScaling,
    yarn_amplitude,
)

FREQS, SHORT, LONG = (f"{name}.weight" for name in ("rope_freqs", "rope_factors_short", "rope_factors_long"))
GGUF_ROPE_TENSORS = frozenset({FREQS, SHORT, LONG})
YARN = {"attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
GGUF_ROPE_KEYS = frozenset({
    "rope.scale_linear", "rope.dimension_count", *(f"rope.scaling.{name}" for name in (
        "type", "factor", "original_context_length", "attn_factor", "yarn_ext_factor", *YARN.values()
    ))
})  # fmt: skip
READS_TABLES = ("llama",)  # architectures in which llama.cpp reads FREQS, SHORT and LONG
TYPES = ("none", "linear", "yarn", "longrope")
USUAL_BANDS = dict(low_freq_factor=1.0, high_freq_factor=4.0)  # of every published Llama 3
SAME = 1e-5  # relative: factors in files are float32
STILL = 1e30  # the factor of pairs that do not turn, as llama.cpp's converter writes it for Gemma


def rope_from_gguf(file, architecture: str, fields: dict) -> dict:
    """rope_scaling of a file, and context_length where the scaling makes another one.

    fields: those of the configuration that are known: head_dim, rope_theta, context_length. Raises
    UserError for other kinds, and where only a part of each head is rotated.
    """
    D, keys = fields["head_dim"], _Keys(file, f"{architecture}.rope")
    if file.setting(f"{architecture}.rope.dimension_count", int, D) != D:
        raise UserError(f"{file.path}: it turns only part of each head, which is not computed here")
    try:
        return _rope_of(keys, D, fields["rope_theta"], fields["context_length"])
    except UserError as error:
        raise error if str(file.path) in str(error) else UserError(f"{file.path}: {error}") from None


def rope_to_gguf(scaling: RotaryScaling | None, architecture: str, head_dim: int, base: float) -> tuple[dict, dict]:
    """(keys without the architecture's name, tensors by name) that say a scaling to llama.cpp.

    Raises UserError where files of the architecture have no way to say it that llama.cpp reads.
    """
    if scaling is None:
        return {}, {}
    if isinstance(scaling, LinearScaling):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}, {}
    if isinstance(scaling, YarnScaling) and scaling.truncate and (scaling.beta_fast, scaling.beta_slow) == (32, 1):
        return _yarn_keys(scaling), {}
    if scaling.depends_on_length and not isinstance(scaling, LongRopeScaling) or architecture not in READS_TABLES:
        raise UserError(
            f"rotary scaling of the kind {scaling.rope_type} cannot be written for llama.cpp in a file of the architecture "
            f"{architecture}: it has no place for such angles; write a folder for transformers in its place"
        )
    if isinstance(scaling, LongRopeScaling):
        keys = {"rope.scaling.type": "longrope", **_amplitude_key(scaling.amplitude)}
        keys["rope.scaling.original_context_length"] = scaling.original_max_position_embeddings
        lists = {SHORT: scaling.short_factor, LONG: scaling.long_factor}
        return keys, {name: np.array(factors, np.float32) for name, factors in lists.items()}
    theta = base ** (-2 * np.arange(head_dim // 2) / head_dim)
    stretched = scaling.stretched(theta, base, 1)
    factors = np.divide(theta, stretched, out=np.full(len(theta), STILL), where=stretched != 0)
    return _amplitude_key(scaling.amplitude), {FREQS: factors.astype(np.float32)}


def _yarn_keys(yarn: YarnScaling) -> dict:
    """llama.cpp multiplies the amplitude of the paper by attn_factor."""
    keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": float(yarn.factor)}
    keys["rope.scaling.original_context_length"] = yarn.original_max_position_embeddings
    return keys | _amplitude_key(yarn.amplitude / yarn_amplitude(yarn.factor))


def _amplitude_key(amplitude: float) -> dict:
    return {} if amplitude == 1 else {"rope.scaling.attn_factor": float(amplitude)}


# ------------------------------------------------------------------------------------------------------ keys and tables


def _rope_of(keys: _Keys, D: int, base: float, context: int) -> dict:
    kind = keys.type()
    factor, amplitude, original = keys.factor(kind), keys.number("scaling.attn_factor", 1.0), keys.original(context)
    if kind == "longrope":
        short, long = (tuple(map(_decimal, keys.table(name, D) * factor)) for name in (SHORT, LONG))
        longrope = LongRopeScaling(short, long, original, attention_factor=amplitude)
        return {"rope_scaling": TableScaling(short, amplitude) if short == long else longrope}
    theta = base ** (-2 * np.arange(D // 2) / D)
    table = keys.table(FREQS, D) if FREQS in keys.file else np.ones(D // 2)
    if kind != "yarn":
        return {"rope_scaling": scaling_of_table(table * factor, theta, base, amplitude)}
    yarn = keys.yarn(factor, original, amplitude)
    yarn.check_head(D, base)
    longer = {"context_length": round(original * factor)} if context <= original else {}
    if (table == 1).all():
        return {"rope_scaling": yarn, **longer}
    stretched = yarn.stretched(theta / table, base, context)
    return {"rope_scaling": scaling_of_table(theta / stretched, theta, base, yarn.amplitude), **longer}


class _Keys:
    """The keys and tables of one file. Each method raises UserError for values that cannot be."""

    def __init__(self, file, group: str):
        self.file, self.group = file, group

    def type(self) -> str:
        """The type of the scaling; tables of longrope say it without a type, too."""
        kind = self.file.settings.get(f"{self.group}.scaling.type", "linear")
        if kind not in (*TYPES, ""):
            raise UserError(f"{self.file.path}: rotary scaling of the type {kind!r:.60} is not computed here")
        missing = [name for name in (SHORT, LONG) if name not in self.file]
        if len(missing) == 1 or kind == "longrope" and missing:
            raise UserError(
                f"{self.file.path}: {missing[0]} is missing, which holds factors of longrope: the file is incomplete"
            )
        return kind or "none" if missing else "longrope"

    def number(self, name: str, default: float) -> float:
        """A number above 0."""
        value = self.file.setting(f"{self.group}.{name}", float, default)
        if not 0 < value <= sys.float_info.max:
            raise UserError(f"{self.file.path}: {self.group}.{name} is {value}, expected a number above 0")
        return value

    def factor(self, kind: str) -> float:
        """s; 1 where it is 0 or missing."""
        for name in ("scaling.factor", "scale_linear"):  # the first is the newer one
            if kind != "none" and self.file.settings.get(f"{self.group}.{name}"):
                return self.number(name, 1.0)
        return 1.0

    def original(self, context: int) -> int:
        """P; the context where it is missing."""
        return self.file.setting(f"{self.group}.scaling.original_context_length", int, context)

    def yarn(self, factor: float, original: int, amplitude: float) -> YarnScaling:
        """The scaling that the keys say, with `amplitude` as a multiplier of its own."""
        if (mixed := self.file.settings.get(f"{self.group}.scaling.yarn_ext_factor", 1.0)) not in (1.0, -1.0):
            raise UserError(
                f"{self.file.path}: {self.group}.scaling.yarn_ext_factor is {mixed}, which is not computed here"
            )
        given = {ours: f"scaling.{theirs}" for ours, theirs in YARN.items()}
        found = {
            ours: self.number(name, 1.0) for ours, name in given.items() if f"{self.group}.{name}" in self.file.settings
        }
        if amplitude != 1:
            found["attention_factor"] = amplitude * found.get("attention_factor", yarn_amplitude(factor))
        return YarnScaling(factor, original, **found)

    def table(self, name: str, D: int) -> np.ndarray:
        """(D/2,): a factor for each pair."""
        table = np.asarray(self.file.tensor(name, np.float64)).ravel()
        if len(table) != D // 2 or not (table > 0).all():
            raise UserError(
                f"{self.file.path}: {name} should hold {D // 2} factors above 0, one for each pair of a head; it holds "
                f"{len(table)}"
            )
        return table


# ------------------------------------------------------------------------------------------- the kinds that a table may be


def scaling_of_table(factors, theta, base: float, amplitude: float = 1.0) -> RotaryScaling | None:
    """The scaling that divides theta (D/2,) by factors (D/2,), by its own name if it has one; None
    if nothing changes.

    Converters to GGUF compute the table of a Llama 3 from four numbers. Those are found again, so
    that what is saved says "llama3", and angles far from the start have all their digits.
    """
    factors = np.asarray(factors, np.float64)
    table = TableScaling(tuple(map(_decimal, factors)), amplitude)
    if amplitude != 1:
        return table
    if np.allclose(factors, 1, SAME, 0):
        return None
    if np.allclose(factors, factors[0], SAME, 0) and factors[0] >= 1:
        return LinearScaling(_decimal(factors[0]))
    return _proportional_of(factors) or _llama3_of(factors, theta, base) or table


def _proportional_of(factors) -> ProportionalScaling | None:
    turning = int((factors < STILL / 10).sum())
    if turning in (0, len(factors)) or factors[0] < 1 or not np.allclose(factors[:turning], factors[0], SAME, 0):
        return None
    found = ProportionalScaling(turning / len(factors), _decimal(factors[0]))
    return found if found.turning(len(factors)) == turning else None


def _llama3_of(factors, theta, base: float) -> Llama3Scaling | None:
    """Between both bands turns = low + m (high - low), and turns = original theta_i / (2 pi): this
    tells the original."""
    largest = factors.max()
    if factors.min() < 1 - SAME or largest <= 1:
        return None
    m = (1 / factors - 1 / largest) / (1 - 1 / largest)
    between = (m > 1e-3) & (m < 1 - 1e-3)
    if not between.any():
        return None
    low, high = USUAL_BANDS.values()
    original = np.median((low + m[between] * (high - low)) * 2 * np.pi / theta[between])
    if not 1 <= round(original) < sys.maxsize:
        return None
    found = Llama3Scaling(_decimal(largest), low, high, round(original))
    return found if np.allclose(theta / found.stretched(theta, base, 1), factors, SAME, 0) else None


def _decimal(value) -> float:
    """The decimal number that was meant by a float32."""
    return float(str(np.float32(value)))
