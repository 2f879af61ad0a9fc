"""From a model to text: the decoder, and every way to write with it."""

from minillm.generation.generate import generate

__all__ = ["generate"]
