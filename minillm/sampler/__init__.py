"""Decoding: strategies as pure functions on logits, and the loop that generates."""

from minillm.sampler.generation import generate
from minillm.sampler.sampler import InvalidLogits, Sampler

__all__ = ["InvalidLogits", "Sampler", "generate"]
