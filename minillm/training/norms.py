"""The norms of gradients and weights, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from minillm.layers.layer import Parameter
from minillm.optim.global_norm import global_norm

BLOCK = re.compile(r"(?:^|\.)(\w+\.\d+)\.")  # h.0, layers.11


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: its block, or what it is a tensor of.

    >>> layer_of("transformer.h.3.attn.c_attn.weight"), layer_of("transformer.wte.weight")
    ('h.3', 'wte')
    """
    block = BLOCK.search(name)
    return block[1] if block else (name.split(".")[-2:] or [name])[0]


def norms_by_layer(parameters: Mapping[str, Parameter], accumulated: int = 1) -> tuple[dict, dict]:
    """(norms of the gradients, norms of the weights), each layer -> number, in the order of the
    parameters.

    accumulated: the batches whose gradients were added. The squares of a kind add up to the square
    of its global norm.
    """
    layers: dict[str, list[Parameter]] = {}
    for name, parameter in parameters.items():
        layers.setdefault(layer_of(name), []).append(parameter)
    gradients = {layer: _norm(p.grad for p in each) / accumulated for layer, each in layers.items()}
    return gradients, {layer: _norm(p.value for p in each) for layer, each in layers.items()}


def _norm(arrays: Iterable) -> float:
    return float(global_norm(arrays))
