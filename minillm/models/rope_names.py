"""Rotary angles in the files of others: rope_theta, rope_scaling and rope_parameters of
config.json, and GGUF's keys.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields

import numpy as np

from minillm.errors import UserError
from minillm.layers.rotary import Llama3Scaling
from minillm.layers.rotary_scaling import LinearScaling, Scaling, TableScaling, scaling_of_table

ROPE_KEYS = frozenset({"rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings"})
ROPE_FREQS = "rope_freqs.weight"
GGUF_ROPE_KEYS = frozenset({"rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.dimension_count"})
_ORIGINAL = "original_max_position_embeddings"
_LLAMA3_FIELDS = tuple(field.name for field in fields(Llama3Scaling))
_LONGROPE_FIELDS = ("short_factor", "long_factor", "attention_factor", "factor", "original_max_position_embeddings")


# -------------------------------------------------------------------------------------------------------- config.json


def rope_from_hugging_face(contents: dict) -> dict:
    """rope_scaling, and rope_theta where it is in the same object as the scaling.

    Raises UserError for other kinds.

    The object is rope_parameters since transformers 5; rope_scaling, of the versions before, takes
    precedence.
    """
    name = "rope_scaling" if contents.get("rope_scaling") else "rope_parameters"
    rope = contents.get(name) or {}
    if not isinstance(rope, dict):
        raise UserError(f"{name} is {rope!r:.99}: expected an object")
    if kinds := sorted(name for name, value in rope.items() if isinstance(value, dict)):
        raise UserError(f"{name} differs by type of layer ({', '.join(kinds)[:99]}), which minillm does not compute")
    theta = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    return {"rope_scaling": _scaling(rope, contents), **theta}


def scaling_to_hugging_face(scaling: Scaling | None, context_length: int) -> dict | None:
    """rope_scaling in config.json."""
    if isinstance(scaling, TableScaling):
        factors = list(scaling.factors)
        same = dict(short_factor=factors, long_factor=factors, attention_factor=1.0, factor=1.0)
        return {"rope_type": "longrope", **same, _ORIGINAL: context_length}
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    return {"rope_type": "llama3", **asdict(scaling)} if scaling else None


def _scaling(given: dict, contents: dict) -> Scaling | None:
    kind = given.get("rope_type", given.get("type", "default"))
    kinds = {"default": (), "linear": ("factor",), "llama3": _LLAMA3_FIELDS, "longrope": _LONGROPE_FIELDS}
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"rope_scaling is of type {kind!r:.99}: minillm computes {', '.join(kinds)}")
    _check_left_over(given, {*kinds[kind], "rope_type", "type", "rope_theta"})
    if kind in ("llama3", "longrope"):  # the key outside of the object takes precedence over the one in it
        originals = [contents.get(_ORIGINAL), given.get(_ORIGINAL), contents.get("max_position_embeddings")]
        given = {**given, _ORIGINAL: next((number for number in originals if number is not None), None)}
    if missing := [name for name in kinds[kind] if name not in given]:
        raise UserError(f"rope_scaling: {missing[0]} is missing")
    if kind == "llama3":
        return Llama3Scaling(**{name: given[name] for name in _LLAMA3_FIELDS})
    if kind == "linear":
        return LinearScaling(given["factor"])
    return _longrope(given) if kind == "longrope" else None


def _check_left_over(given: dict, used: set[str]) -> None:
    for name, value in given.items():
        if name in used or value is None or name == "partial_rotary_factor" and value == 1:
            continue
        if name in ("attention_factor", "factor", "mscale", "mscale_all_dim") and value == 1:
            continue
        raise UserError(f"rope_scaling has {name} {value!r:.99}, which minillm does not compute")


def _longrope(given: dict) -> TableScaling:
    """Computed where short and long texts have the same factors, and scores are not scaled."""
    if given["short_factor"] != given["long_factor"]:
        raise UserError("rope_scaling is longrope with other factors for long texts, which minillm does not compute")
    if given.get("attention_factor") not in (1, 1.0):
        raise UserError(
            "rope_scaling is longrope with an attention_factor that is not 1, which minillm does not compute"
        )
    return TableScaling(given["short_factor"])


def check_frequencies(tensor, head_dim: int, theta: float, scaling: Scaling | None) -> None:
    """Raises UserError if frequencies in a file are not those of config.json. 16-bit files have few
    digits of them.
    """
    plain = theta ** (-2 * np.arange(head_dim // 2) / head_dim)
    possible = [plain, scaling.stretched(plain)] if scaling else [plain]
    stored = tensor.read(np.float64)
    if not any(stored.shape == t.shape and np.allclose(stored, t, rtol=0.02, atol=1e-7) for t in possible):
        raise UserError(f"{tensor.path}: {tensor.name} are other frequencies than rope_theta in config.json makes")


# --------------------------------------------------------------------------------------------------------------- GGUF


def scaling_from_gguf(file, architecture: str, head_dim: int, theta: float) -> Scaling | None:
    """The factor of all pairs, and the table of factors, which both divide.

    A file without a type means linear.

    Raises UserError for other kinds, and where only a part of each head is rotated.
    """
    if file.setting(f"{architecture}.rope.dimension_count", int, head_dim) != head_dim:
        raise UserError(f"{file.path}: it turns only part of each head, which is not computed here")
    kind = file.settings.get(f"{architecture}.rope.scaling.type", "linear")
    if kind not in ("none", "", "linear"):
        raise UserError(f"{file.path}: rotary scaling of the type {kind!r:.60} is not computed here")
    factor = 0.0
    for key in ("rope.scale_linear", "rope.scaling.factor"):  # the second is the newer one
        factor = file.setting(f"{architecture}.{key}", float, factor)
    if kind == "none" or factor == 0:
        factor = 1.0
    if not 0 < factor < math.inf:
        raise UserError(f"{file.path}: the factor of rotary scaling is {factor}, expected a number above 0")
    if ROPE_FREQS not in file:
        return None if factor == 1 else LinearScaling(factor)
    table = np.asarray(file.tensor(ROPE_FREQS, np.float64)).ravel()
    if len(table) != head_dim // 2 or not (table > 0).all():
        raise UserError(
            f"{file.path}: {ROPE_FREQS} should hold {head_dim // 2} factors above 0, one for each pair of a head; it holds "
            f"{len(table)}"
        )
    return scaling_of_table(table * factor, theta ** (-2 * np.arange(head_dim // 2) / head_dim))
