"""Rotary scaling as llama.cpp reads it from a GGUF file: keys rope.scaling.*, and tensors of factors.

    linear     rope.scaling.type "linear", rope.scaling.factor
    llama3     the tensor rope_freqs (D/2,): theta_i / theta_i', which divides theta_i
    factors    the same tensor

llama.cpp looks for the tensor in files of the architecture "llama" alone, and refuses it in others.
Source: llama.cpp, src/models/llama.cpp, conversion/base.py and conversion/llama.py.
"""

from __future__ import annotations

import numpy as np

from minillm.layers.rotary_scaling import LinearScaling, Scaling
from minillm.models.rope_names import ROPE_FREQS


def scaling_keys(scaling: Scaling | None, context_length: int) -> dict:
    """The keys, without the name of the architecture, and their values."""
    if isinstance(scaling, LinearScaling):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    return {}


def scaling_tensors(scaling: Scaling | None, head_dim: int, theta: float) -> dict[str, np.ndarray]:
    """The tensors of factors (D/2,) by their names."""
    if scaling is None or isinstance(scaling, LinearScaling):
        return {}
    plain = theta ** (-2 * np.arange(head_dim // 2) / head_dim)  # (D/2,)
    return {ROPE_FREQS: (plain / scaling.stretched(plain)).astype(np.float32)}


def table_refusal(kind, config) -> str | None:
    """Why a file of the architecture `kind` cannot say the scaling of a configuration, where
    llama.cpp reads no tensors of factors; None if it can.
    """
    if not scaling_tensors(config.rope_scaling, config.head_dim, config.rope_theta):
        return None
    return (
        f"rope_scaling by a factor for each pair: llama.cpp does not read such factors in files of {kind.display_name}"
    )
