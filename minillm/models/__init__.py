"""The models, put together from the layers."""

from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.models.llama import Llama, LlamaConfig

__all__ = ["GPT2", "GPT2Config", "Llama", "LlamaConfig"]
