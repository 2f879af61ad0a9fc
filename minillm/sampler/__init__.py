"""From logits to a token: pure functions, and the sampler that puts them together."""

from minillm.sampler.history import History
from minillm.sampler.sampler import InvalidLogits, Sampler

__all__ = ["History", "InvalidLogits", "Sampler"]
