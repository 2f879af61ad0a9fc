"""Rotary angles in config.json: rope_theta, rope_scaling, rope_parameters, and their lengths.

Forms, from the oldest to the newest:

    "rope_scaling": {"type": "linear", "factor": 2.0}                 transformers 4.31, 2023
    "rope_scaling": {"type": "su", "short_factor": [...], ...},       Phi-3, 2024; "su" is longrope
        "original_max_position_embeddings": 4096                      beside it, not in it
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, ...}       transformers 4.43, 2024
    "rope_parameters": {"rope_type": ..., "rope_theta": ..., ...}     transformers 5, 2025

How long a text may be is max_position_embeddings, with these exceptions:

    dynamic    max_position_embeddings is the original context P, as transformers has it
    yarn       max_position_embeddings or factor P, whichever is more: files that got the scaling
               afterwards, as Qwen's pages say, keep the max_position_embeddings of before
    linear     max_position_embeddings or max_sequence_length (Vicuna), whichever is more

A text of dynamic may have factor P tokens. What minillm writes says another length of yarn or
dynamic by max_sequence_length.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from minillm.errors import UserError
from minillm.layers.rotary_checks import ORIGINAL, check_number
from minillm.layers.rotary_scaling import (
    KINDS,
    DynamicScaling,
    LinearScaling,
    LongRopeScaling,
    RotaryScaling,
    TableScaling,
    YarnScaling,
    scaling_from_fields,
    yarn_amplitude,
)

LENGTH, SEQUENCE = "max_position_embeddings", "max_sequence_length"
SHARE = "partial_rotary_factor"
ROPE_KEYS = frozenset({"rope_theta", "rope_scaling", "rope_parameters", ORIGINAL, SHARE, SEQUENCE})
OTHER_NAMES = {"su": "longrope"}  # former names of kinds
READ = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional")
NEUTRAL = {  # at these values they change nothing, whatever the kind; None: at any value
    "attention_factor": (1,), "factor": (1,), "mscale": (1,), "mscale_all_dim": (1,), "extrapolation_factor": (1,),
    "attn_factor": (1,), "finetuned": None, "rope_theta": None, "rope_type": None, "type": None,
}  # fmt: skip


def rope_from_hugging_face(contents: dict) -> dict:
    """rope_scaling, rope_theta where it is in the same object, and context_length where the scaling
    makes another one.

    Raises UserError for kinds and keys that are not computed, naming them.

    The object is rope_parameters since transformers 5; rope_scaling, of the versions before, takes
    precedence.
    """
    name = "rope_scaling" if contents.get("rope_scaling") else "rope_parameters"
    rope = contents.get(name) or {}
    if not isinstance(rope, dict):
        raise UserError(f"{name} is {rope!r:.99}: expected an object")
    if kinds := sorted(name for name, value in rope.items() if isinstance(value, dict)):
        raise UserError(f"{name} differs by type of layer ({', '.join(kinds)[:99]}), which minillm does not compute")
    scaling = _scaling(rope, contents)
    theta = {"rope_theta": rope["rope_theta"]} if rope.get("rope_theta") is not None else {}
    return {"rope_scaling": scaling, **theta, **_context_length(scaling, contents)}


def rope_to_hugging_face(scaling: RotaryScaling | None, context_length: int) -> dict:
    """What config.json says of a scaling: rope_scaling, and the lengths that it changes."""
    if scaling is None:
        return {"rope_scaling": None}
    if isinstance(scaling, TableScaling):  # which transformers has as a longrope that has one list
        same = dict(short_factor=scaling.factors, long_factor=scaling.factors, factor=1.0)
        scaling = LongRopeScaling(
            **same, original_max_position_embeddings=context_length, attention_factor=scaling.attention_factor
        )
    written = {field.name: getattr(scaling, field.name) for field in fields(scaling)}
    written = {
        name: list(value) if isinstance(value, tuple) else value for name, value in written.items() if value is not None
    }
    contents = {"rope_scaling": written}
    if isinstance(scaling, DynamicScaling):
        contents[LENGTH] = written.pop(ORIGINAL)
    if (
        _context_length(scaling, {LENGTH: context_length, **contents}).get("context_length", context_length)
        != context_length
    ):
        contents[SEQUENCE] = context_length
    return contents


def check_frequencies(tensor, head_dim: int, theta: float, scaling: RotaryScaling | None) -> None:
    """Raises UserError if frequencies in a file are not those of config.json. 16-bit files have few
    digits of them.
    """
    plain = theta ** (-2 * np.arange(head_dim // 2) / head_dim)
    possible = [plain, scaling.stretched(plain, theta, 1)] if scaling else [plain]
    stored = tensor.read(np.float64)
    if not any(stored.shape == t.shape and np.allclose(stored, t, rtol=0.02, atol=1e-7) for t in possible):
        raise UserError(f"{tensor.path}: {tensor.name} are other frequencies than rope_theta in config.json makes")


# ------------------------------------------------------------------------------------------------------------- reading


def _scaling(rope: dict, contents: dict) -> RotaryScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    kind = OTHER_NAMES.get(kind, kind) if isinstance(kind, str) else kind
    if not isinstance(kind, str) or kind not in READ:
        raise UserError(f"rope_scaling is of type {kind!r:.99}: minillm computes {', '.join(READ)}")
    given = {name: value for name, value in rope.items() if value is not None}
    given.pop(ORIGINAL, None)
    given |= _original(kind, rope, contents)
    _read_share(kind, given, contents)
    if "factor" not in given and (kind == "longrope" or kind == "yarn" and "factor" in rope):  # null is the ratio
        given["factor"] = _ratio(given, contents)
    if kind == "yarn":
        _read_mscale(given)
    used = {each.name for each in fields(KINDS[kind])} if kind in KINDS else set()
    _check_left_over(given, used)
    if kind == "default":
        return None
    scaling = scaling_from_fields({name: given[name] for name in used & given.keys()} | {"rope_type": kind})
    if isinstance(scaling, LongRopeScaling) and scaling.short_factor == scaling.long_factor:
        return TableScaling(scaling.short_factor, scaling.amplitude)
    return scaling


def _original(kind: str, rope: dict, contents: dict) -> dict:
    """The field of the original context P, from where transformers has it."""
    inside, outside, length = rope.get(ORIGINAL), contents.get(ORIGINAL), contents.get(LENGTH)
    if kind == "dynamic":
        if length is None:
            raise UserError(f"rope_scaling is dynamic, and {LENGTH} is missing, which is its original context")
        if inside not in (None, length):
            raise UserError(
                f"rope_scaling is dynamic with {ORIGINAL} {inside!r:.99}, and {LENGTH}, which transformers "
                f"takes for it, is {length!r:.99}: make them equal"
            )
        return {ORIGINAL: length}
    if kind not in ("llama3", "yarn", "longrope"):
        return {}
    found = next((number for number in (outside, inside, length) if number is not None), None)
    return {} if found is None else {ORIGINAL: found}


def _read_share(kind: str, given: dict, contents: dict) -> None:
    share = given.pop(SHARE, contents.get(SHARE))
    if kind == "proportional":
        given |= {} if share is None else {SHARE: share}
    elif share not in (None, 1):
        raise UserError(
            f"{SHARE} is {share!r:.99}: minillm rotates whole heads, or the share of a proportional rope_type"
        )


def _read_mscale(given: dict) -> None:
    """DeepSeek's fields: attention_factor as a ratio of two amplitudes."""
    mscale, all_dim = given.pop("mscale", None), given.pop("mscale_all_dim", None)
    for name in ("beta_fast", "beta_slow"):
        if given.get(name) == 0:  # which transformers reads as not given
            del given[name]
    if not mscale or not all_dim or "attention_factor" in given or "factor" not in given:
        return
    for name, value in (("factor", given["factor"]), ("mscale", mscale), ("mscale_all_dim", all_dim)):
        check_number(name, value)
    given["attention_factor"] = yarn_amplitude(given["factor"], mscale) / yarn_amplitude(given["factor"], all_dim)


def _ratio(given: dict, contents: dict) -> float:
    """The factor that is not given: the context over the original one."""
    length, original = contents.get(LENGTH), given.get(ORIGINAL)
    for name, value in ((LENGTH, length), (ORIGINAL, original)):
        check_number(name, value)
    return max(length / original, 1.0)


def _check_left_over(given: dict, used: set[str]) -> None:
    for name, value in given.items():
        if name not in used and not (name in NEUTRAL and (NEUTRAL[name] is None or value in NEUTRAL[name])):
            raise UserError(f"rope_scaling has {name} {value!r:.99}, which minillm does not compute")


def _context_length(scaling: RotaryScaling | None, contents: dict) -> dict:
    """context_length, where it is not max_position_embeddings."""
    length, sequence = contents.get(LENGTH), contents.get(SEQUENCE)
    if isinstance(scaling, LinearScaling) and type(sequence) is type(length) is int and sequence > length:
        return {"context_length": sequence}
    if not isinstance(scaling, (DynamicScaling, YarnScaling)):
        return {}
    if sequence is not None:
        return {"context_length": sequence}
    extended = round(scaling.original_max_position_embeddings * scaling.factor)
    return {"context_length": extended} if type(length) is not int or extended > length else {}
