"""Decoding: strategies as pure functions on logits, and the loop that generates."""

from minillm.sampler.generation import generate
from minillm.sampler.history import History
from minillm.sampler.sampler import InvalidLogits, Sampler

__all__ = ["History", "InvalidLogits", "Sampler", "generate"]
