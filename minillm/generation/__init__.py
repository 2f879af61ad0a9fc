"""From a model to text: the decoder, and every strategy of generation."""

from minillm.generation.generate import generate

__all__ = ["generate"]
